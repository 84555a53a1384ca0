"""A 3x3 convolution whose filter gradient is quick on CPUs in bfloat16.

The filter gradient sums, for each offset and pair of channels, over images and
pixels: it is itself a convolution, of the layer's input with the gradient, in
which batch and channels have changed places. On small maps oneDNN's forward
kernel does that in half the time of its filter-gradient kernel, or less (see
docs/performance.md); the result is the same up to rounding.
"""

import keras
import tensorflow as tf

# Up to this side of a map, in pixels, the detour is the shorter way.
_LARGEST_SIDE = 8


def filter_gradient(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of a 3x3 "same" convolution's filters.

    Args:
      inputs: [b, h, w, c], what went into the convolution; a float type.
      gradient: [b, h, w, f], of what came out of it; the same type.

    Returns:
      [3, 3, c, f], the same type.
    """
    images = tf.transpose(inputs, [3, 1, 2, 0])
    images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    filters = tf.transpose(gradient, [1, 2, 0, 3])
    # [c, h + 2, w + 2, b] by [h, w, b, f] leaves [c, 3, 3, f].
    result = tf.nn.conv2d(images, filters, strides=1, padding="VALID")
    return tf.transpose(result, [1, 2, 0, 3])


@tf.custom_gradient
def _convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")

    def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        towards_inputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs),
            filter=kernel,
            out_backprop=gradient,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
        return towards_inputs, filter_gradient(inputs, gradient)

    return outputs, backward


class Convolution(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, 3x3, "same", stride 1, for training on a CPU."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves: [b, h, w, c] by [3, 3, c, f] to [b, h, w, f]."""
        small = [side and side <= _LARGEST_SIDE for side in inputs.shape[1:3]]
        if not all(small):
            return super().convolution_op(inputs, kernel)
        # The variable itself is nothing that a custom gradient takes.
        return _convolve(inputs, tf.cast(kernel, inputs.dtype))
