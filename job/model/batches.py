"""Evaluation of functions of images in batches of one size.

size = batch_size_for(input_size=128, at_32=500)              # 31
features = predict_in_batches(base, images, batch_size=size)  # [n, f]
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from job.data.dataset import IMAGE_SIZE


def batch_size_for(input_size: int, at_32: int, *, at_least: int = 1) -> int:
    """Returns the batch size that costs as much as `at_32` images of 32 pixels.

    Args:
      input_size: Height and width of the images in pixels.
      at_32: Batch size for images of 32 by 32 pixels.
      at_least: Lower bound of the result.
    """
    return max(at_least, at_32 * IMAGE_SIZE**2 // input_size**2)


def compile_for_batches(
    function: Callable[[tf.Tensor], tf.Tensor], *, batch_size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a function of images for a fixed batch size.

    Args:
      function: Function from uint8 [b, 32, 32, 3] images to [b, ...]. A row of
        the result must depend on its own image only.
      batch_size: Images per call, b.

    Returns:
      A function of up to b images, uint8 [n, 32, 32, 3] to [n, ...]. A smaller
      batch is padded with zeros, so that the function is compiled once.
    """
    compiled = tf.function(
        function,
        input_signature=[
            tf.TensorSpec([batch_size, IMAGE_SIZE, IMAGE_SIZE, 3], tf.uint8)
        ],
        autograph=False,
    )

    def compute(images: np.ndarray) -> np.ndarray:
        missing = batch_size - len(images)
        filled = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        return compiled(tf.constant(filled)).numpy()[: len(images)]

    return compute


def predict_in_batches(
    function: Callable[[tf.Tensor], tf.Tensor],
    images: np.ndarray,
    *,
    batch_size: int,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Applies a function to images, batch by batch.

    Args:
      function: Function from uint8 [b, 32, 32, 3] images to [b, ...]; see
        `compile_for_batches`.
      images: Images, uint8 [n, 32, 32, 3], n at least 1.
      batch_size: Images per batch, b.
      poll: Function called before each batch. An exception that it raises ends
        the computation.

    Returns:
      The results, [n, ...], in the order of the images.
    """
    compute = compile_for_batches(function, batch_size=batch_size)
    parts = []
    for start in range(0, len(images), batch_size):
        poll()
        parts.append(compute(images[start : start + batch_size]))
    return np.concatenate(parts)
