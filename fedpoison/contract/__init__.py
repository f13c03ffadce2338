"""What an algorithm may ask for and say of itself, and how it is found."""
