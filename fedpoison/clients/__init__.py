"""The clients' half of a round: who holds which samples, how they train, when they answer."""
