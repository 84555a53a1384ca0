"""2x2 max pooling that XLA compiles to elementwise operations on a GPU.

XLA turns the gradient of `tf.nn.max_pool2d` into a scatter with atomic
additions. At 1,024 images it moves 5 GB per step of VGG16 (see
docs/performance.md). The maximum of four slices has the same value and, bit by
bit, the same gradient, ties included, without a scatter.
"""

import keras
import tensorflow as tf


@tf.custom_gradient
def max_pool(images: tf.Tensor) -> tf.Tensor:
    """Returns the maxima of 2x2 windows with stride 2.

    Args:
      images: Feature maps, [b, h, w, c], with even, static h and w, a float
        type.

    Returns:
      Maxima, [b, h / 2, w / 2, c]. The gradient of a maximum goes to its first
      pixel, row by row.
    """
    corners = _corners(images)
    top, bottom = tf.maximum(*corners[:2]), tf.maximum(*corners[2:])
    maxima = tf.maximum(top, bottom)

    def backward(gradient: tf.Tensor) -> tf.Tensor:
        # This takes one pass, where the tape takes one per tf.maximum.
        first = tf.constant(3.0, images.dtype)
        for number in (2, 1, 0):
            first = tf.where(
                corners[number] == maxima,
                tf.constant(number, images.dtype),
                first,
            )
        height, width = images.shape[1:3]
        numbers = tf.constant([[0, 1], [2, 3]], images.dtype)
        numbers = tf.tile(numbers, [height // 2, width // 2])[..., None]
        return tf.where(
            _repeat(first) == numbers,
            _repeat(gradient),
            tf.zeros([], gradient.dtype),
        )

    return maxima, backward


class MaxPooling(keras.layers.MaxPooling2D):
    """2x2 `keras.layers.MaxPooling2D` for training under XLA."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools [b, h, w, c] to [b, h / 2, w / 2, c]."""
        is_even = [size and size % 2 == 0 for size in inputs.shape[1:3]]
        return max_pool(inputs) if all(is_even) else super().call(inputs)


def _corners(images: tf.Tensor) -> list[tf.Tensor]:
    """Returns the four pixels of each window, row by row."""
    return [images[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]


def _repeat(pooled: tf.Tensor) -> tf.Tensor:
    """Repeats each pixel of [b, h, w, c] in its window, [b, 2h, 2w, c]."""
    height, width, channels = pooled.shape[1:]
    wide = tf.broadcast_to(
        pooled[:, :, None, :, None],
        [tf.shape(pooled)[0], height, 2, width, 2, channels],
    )
    return tf.reshape(wide, [-1, 2 * height, 2 * width, channels])
