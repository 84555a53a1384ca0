"""Sources of images, and the order in which steps see them."""
