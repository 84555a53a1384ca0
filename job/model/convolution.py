"""3x3 convolution with a fast filter gradient on CPUs in bfloat16.

The filter gradient is a convolution of the layer's input with the gradient, in
which batch and channels are exchanged. On small feature maps the forward kernel
of oneDNN takes at most half the time of its filter-gradient kernel (see
docs/performance.md). The result is equal up to rounding.
"""

import keras
import tensorflow as tf

# Largest height and width of a feature map for which this method is faster.
_LARGEST_SIZE = 8


def filter_gradient(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of the filters of a 3x3 "same" convolution.

    Args:
      inputs: Input of the convolution, [b, h, w, c], a float type.
      gradient: Gradient of its output, [b, h, w, f], of the same type.

    Returns:
      Gradient of the filters, [3, 3, c, f], of the same type.
    """
    images = tf.transpose(inputs, [3, 1, 2, 0])
    images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    filters = tf.transpose(gradient, [1, 2, 0, 3])
    # [c, h + 2, w + 2, b] convolved with [h, w, b, f] gives [c, 3, 3, f].
    result = tf.nn.conv2d(images, filters, strides=1, padding="VALID")
    return tf.transpose(result, [1, 2, 0, 3])


@tf.custom_gradient
def _convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")

    def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        input_gradient = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs),
            filter=kernel,
            out_backprop=gradient,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
        return input_gradient, filter_gradient(inputs, gradient)

    return outputs, backward


class Convolution(keras.layers.Conv2D):
    """3x3 `keras.layers.Conv2D`, "same", stride 1, for training on a CPU."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves [b, h, w, c] with [3, 3, c, f] to [b, h, w, f]."""
        small = [size and size <= _LARGEST_SIZE for size in inputs.shape[1:3]]
        if not all(small):
            return super().convolution_op(inputs, kernel)
        # A custom gradient does not accept a variable.
        return _convolve(inputs, tf.cast(kernel, inputs.dtype))
