"""Scales images up, on the device, before the first layer.

A kernel of a fixed size is a matrix: rows and columns are two small matrix
products, which every device and XLA have. (TensorFlow's own bicubic kernel is
for the CPU only.)

    upsample = make_upsample(128, method="bicubic")
    larger = upsample(images)              # [b, 32, 32, 3] -> [b, 128, 128, 3]
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from job.data.dataset import IMAGE_SIZE

Upsample = Callable[[tf.Tensor], tf.Tensor]


def make_upsample(size: int, *, method: str) -> Upsample:
    """Returns the function that scales a batch up.

    Args:
      size: side of what goes out, in pixels, at least 32.
      method: see `interpolation_matrix`.

    Returns:
      uint8 or float [b, 32, 32, 3], 0 to 255 -> float32 [b, size, size, 3], 0
      to 255; at size 32 the images as they are. Bicubic overshoots at edges,
      and is cut to that range, as in an image file.
    """
    if size == IMAGE_SIZE:
        return lambda images: images
    matrix = interpolation_matrix(IMAGE_SIZE, size, method)

    def upsample(images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        weights = tf.constant(matrix)
        tall = tf.einsum("oi,bijc->bojc", weights, images)
        larger = tf.einsum("oj,bijc->bioc", weights, tall)
        return tf.clip_by_value(larger, 0.0, 255.0)

    return upsample


def interpolation_matrix(size: int, larger: int, method: str) -> np.ndarray:
    """Returns the weights of each pixel of a row in each of a longer row.

    Pixels are squares and their values stand in the middle (half-pixel
    centres, as in `tf.image.resize` and Pillow); beyond the border the weights
    are left out and the others scaled to a sum of 1.

    Args:
      size: pixels of the row, n.
      larger: pixels of the longer row, m >= n.
      method: nearest; bilinear; or bicubic: Keys 1981 with a = -0.5, as
        `tf.image.resize` and Pillow.

    Returns:
      float32 [m, n]; each row sums to 1.
    """
    centre = (np.arange(larger) + 0.5) * size / larger - 0.5
    distance = np.abs(centre[:, None] - np.arange(size)[None, :])
    if method == "nearest":
        nearest = np.minimum(np.floor(centre + 0.5), size - 1)
        weights = (np.arange(size)[None, :] == nearest[:, None]).astype(float)
    elif method == "bilinear":
        weights = np.maximum(0.0, 1 - distance)
    elif method == "bicubic":
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    else:
        raise ValueError(f"no upsampling is called {method!r}")
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
