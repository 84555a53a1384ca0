"""Scaling of images on the device, before the first layer.

Images are scaled up to the size that ImageNet's weights expect, or down for
progressive resizing, in which a run starts with small images. Rows and columns
are scaled by two matrix products, which every device and XLA support. (The
bicubic kernel of TensorFlow runs on CPUs only.)

    resize = make_resize(128, method="bicubic")
    larger = resize(images)                # [b, 32, 32, 3] -> [b, 128, 128, 3]
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from job.data.dataset import IMAGE_SIZE

Resize = Callable[[tf.Tensor], tf.Tensor]


def make_resize(size: int, *, method: str) -> Resize:
    """Returns the function that scales a batch.

    Args:
      size: Height and width of the result in pixels.
      method: Kernel; see `interpolation_matrix`.

    Returns:
      Function from uint8 or float [b, 32, 32, 3], 0 to 255, to float32 [b,
      size, size, 3], 0 to 255. At size 32 it returns the images unchanged.
      Bicubic overshoots at edges and is clipped to that range.
    """
    if size == IMAGE_SIZE:
        return lambda images: images
    matrix = interpolation_matrix(IMAGE_SIZE, size, method)

    def resize(images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        weights = tf.constant(matrix)
        rows = tf.einsum("oi,bijc->bojc", weights, images)
        resized = tf.einsum("oj,bijc->bioc", weights, rows)
        return tf.clip_by_value(resized, 0.0, 255.0)

    return resize


def interpolation_matrix(size: int, new_size: int, method: str) -> np.ndarray:
    """Returns the matrix that scales a row of pixels.

    The value of a pixel is at its center. At the border the weights outside the
    row are dropped, and the others are scaled to a sum of 1. If the row
    shrinks, the kernel is wider by the same factor (antialiasing), except for
    nearest. The result equals that of `tf.image.resize` with antialias=True
    and of Pillow.

    Args:
      size: Number of pixels of the row, n.
      new_size: Number of pixels of the scaled row, m.
      method: Kernel: nearest, bilinear or bicubic (Keys 1981 with a = -0.5).

    Returns:
      Matrix, float32 [m, n], whose rows sum to 1.

    Raises:
      ValueError: The method is unknown.
    """
    center = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    distance = np.abs(center[:, None] - np.arange(size)[None, :])
    if method == "nearest":
        nearest = np.minimum(np.floor(center + 0.5), size - 1)
        weights = (np.arange(size)[None, :] == nearest[:, None]).astype(float)
        return weights.astype(np.float32)
    distance /= max(1.0, size / new_size)
    if method == "bilinear":
        weights = np.maximum(0.0, 1 - distance)
    elif method == "bicubic":
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    else:
        raise ValueError(f"unknown method {method!r}")
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
