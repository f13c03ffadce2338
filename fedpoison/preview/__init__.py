"""What a configuration makes of the data, before anything trains."""
