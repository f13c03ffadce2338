"""What is measured: the model, a round, how hidden poison is."""
