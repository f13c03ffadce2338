"""What is learned: everything that depends on what a label is."""
