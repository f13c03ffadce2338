"""An experiment of fedpoison on a Flower federation."""
