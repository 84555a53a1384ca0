"""Filters that make what a first layer sees uncorrelated and of unit variance.

    filters = whitening_filters(images, mean, divisor)   # float32 [3, 3, 3, 27]

Neighbouring pixels say nearly the same: 3x3 patches of CIFAR-10 have most of
their variance in a few directions, and a first layer has to learn to look at
the others. These filters are the directions, each divided by its deviation;
they are computed from the training images and stay as they are (Page 2019, "How
to train your ResNet"; Jordan 2024, arXiv:2404.00498). There they are the first
layer, 2x2; here, where VGG16 has its own first 3x3 layer, they stand before it.
"""

from collections.abc import Sequence

import numpy as np

# One for each direction of a patch of 3 x 3 pixels of 3 channels.
FILTERS = 27

# Added to each variance, of patches of standardized pixels: what is smaller is
# noise, and would be blown up (Jordan 2024 has .0005, for 2x2 patches).
_EPSILON = 5e-4

# Patches of so many images are enough: 4.5 million.
_IMAGES = 5000


def whitening_filters(
    images: np.ndarray, mean: Sequence[float], divisor: Sequence[float]
) -> np.ndarray:
    """Returns the filters for the patches of some images.

    Args:
      images: uint8 [n, h, w, 3]; the first 5,000 are looked at.
      mean: a number a channel, red, green, blue, taken off each pixel first.
      divisor: likewise, by which it is divided then.

    Returns:
      float32 [3, 3, 3, 27], directions of the most variance first. A
      convolution of the patches with them has unit variances, but for what is
      added to the small ones, and no correlations.
    """
    pixels = (images[:_IMAGES].astype(np.float32) - mean) / divisor
    size = FILTERS
    products, sums, count = np.zeros((size, size)), np.zeros(size), 0
    for start in range(0, len(pixels), 250):
        patches = np.lib.stride_tricks.sliding_window_view(
            pixels[start : start + 250], (3, 3), axis=(1, 2)
        )
        # [n, h - 2, w - 2, 3 channels, 3, 3] to rows in a kernel's order.
        rows = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size)
        rows = rows.astype(np.float64)
        products += rows.T @ rows
        sums += rows.sum(axis=0)
        count += len(rows)
    covariance = products / count - np.outer(sums, sums) / count**2
    variances, directions = np.linalg.eigh(covariance)
    # Either sign is as good: the one that makes the largest part positive.
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[largest, np.arange(size)])
    filters = directions / np.sqrt(np.maximum(variances, 0.0) + _EPSILON)
    return filters[:, ::-1].reshape(3, 3, 3, size).astype(np.float32)
