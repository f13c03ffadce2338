"""What every room needs: errors, streams of random numbers, threads, small arithmetic."""
