"""Sources of images, and their order in training."""
