"""Layers for standardization, dropout and batch normalization.

Unlike those of Keras, they neither assign variables nor draw random numbers.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Standardize(keras.layers.Layer):
    """Layer that computes (pixel - mean) / divisor per channel, in float32."""

    def __init__(
        self,
        mean: Sequence[float],
        divisor: Sequence[float],
        *,
        bgr: bool = False,
        **kwargs: Any,
    ) -> None:
        """Creates the layer.

        Args:
          mean: Mean of each output channel, 0 to 255.
          divisor: Divisor of each output channel, above 0.
          bgr: Whether to reverse the channels from RGB to BGR.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        # Keras would round the pixels to bfloat16 before the layer.
        super().__init__(autocast=False, **kwargs)
        self.mean, self.divisor = tuple(mean), tuple(divisor)
        self.bgr = bgr

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Standardizes [b, h, w, 3] pixels, 0 to 255.

        Args:
          images: RGB images, uint8 or float [b, h, w, 3].

        Returns:
          Standardized images, [b, h, w, 3], in the compute dtype.
        """
        images = tf.cast(images, tf.float32)
        if self.bgr:
            # tf.reverse would make a copy, while a stack fuses with the rest.
            images = tf.stack(tf.unstack(images, axis=-1)[::-1], axis=-1)
        scaled = (images - tf.constant(self.mean)) / tf.constant(self.divisor)
        return tf.cast(scaled, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean": self.mean,
            "divisor": self.divisor,
            "bgr": self.bgr,
        }


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) with random numbers as an input.

    The layer of Keras has a generator variable with the same initial value on
    each replica. All replicas would drop the same units, and the units would
    change after a resume.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        """Creates the layer.

        Args:
          rate: Fraction of the units that are set to 0, from 0 to below 1.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        # Keras would round the random numbers to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.rate = rate

    def call(
        self, x: tf.Tensor, noise: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Sets the units to 0 whose noise is below the rate.

        Args:
          x: Features, [b, d], any float type.
          noise: Random numbers, float32 [b, d], uniform over 0 to 1.
          training: Whether to drop units. If False, `x` is returned unchanged.
        """
        if not training:
            return x
        kept = x / tf.cast(1 - self.rate, x.dtype)
        return tf.where(noise >= self.rate, kept, tf.zeros([], x.dtype))

    def compute_output_spec(
        self,
        x: keras.KerasTensor,
        noise: keras.KerasTensor,
        training: bool = False,
    ) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


class BatchNormalization(keras.layers.Layer):
    """Batch normalization on TensorFlow's fused kernel (Ioffe & Szegedy 2015).

    The layer of Keras 3 consists of separate operations. The fused kernel is
    faster, and it reads and writes bfloat16 with float32 statistics. The
    training step, not this layer, assigns the moving statistics.
    """

    def __init__(
        self,
        *,
        momentum: float,
        epsilon: float,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        """Creates the layer.

        Args:
          momentum: Fraction of the moving statistics that a step keeps, 0 to 1.
          epsilon: Number added to the variance, above 0.
          synchronized: Whether to compute the batch statistics over all
            replicas.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.synchronized = synchronized

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (input_shape[-1],)

        def weight(name: str, value: str, trainable: bool) -> keras.Variable:
            return self.add_weight(
                shape=shape,
                initializer=value,
                trainable=trainable,
                name=name,
                dtype="float32",
                autocast=False,
            )

        self.gamma = weight("gamma", "ones", True)
        self.beta = weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def call(
        self, x: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalizes over all axes except the last one.

        Args:
          x: Feature maps, [b, h, w, c], any float type.
          training: Whether to use the statistics of the batch. If False, the
            moving statistics are used.

        Returns:
          The normalized x, of the same shape and type, and the float32 [c] mean
          and [c] variance (with Bessel's correction) of the batch. Without
          `training` they are the moving statistics.
        """
        if training and self.synchronized:
            return self._call_synchronized(x)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma,
            offset=self.beta,
            # The kernel requires empty statistics in training.
            mean=[] if training else self.moving_mean,
            variance=[] if training else self.moving_variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format="NHWC",
            is_training=training,
        )
        if not training:
            mean, variance = (
                tf.convert_to_tensor(self.moving_mean),
                tf.convert_to_tensor(self.moving_variance),
            )
        return y, mean, variance

    def _call_synchronized(
        self, x: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes the statistics over the global batch, in two passes.

        A single pass over x and x squared would lose half of the digits. The
        means of all images are gathered from the replicas and summed in the
        order of the global batch. The rounding of the sum is therefore equal
        for any number of replicas.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        replica = context.replica_id_in_sync_group

        def mean_over_global_batch(value: tf.Tensor) -> tf.Tensor:
            value = tf.reduce_mean(value, axis=[1, 2])
            if replicas > 1:
                # A sum with zeros gathers exactly. all_gather would fail with
                # two strategies in a process, whose collectives collide.
                before = value.shape[0] * replica
                after = value.shape[0] * (replicas - 1) - before
                value = tf.pad(value, [[before, after], [0, 0]])
                value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            return tf.reduce_mean(value, axis=0)

        wide = tf.cast(x, tf.float32)
        mean = mean_over_global_batch(wide)
        centered = wide - mean
        variance = mean_over_global_batch(tf.square(centered))
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        y = tf.cast(centered * scale + self.beta, x.dtype)
        count = tf.cast(tf.size(x) // x.shape[-1] * replicas, tf.float32)
        return y, mean, variance * (count / tf.maximum(count - 1, 1))

    def compute_output_spec(
        self, x: keras.KerasTensor, training: bool = False
    ) -> tuple[keras.KerasTensor, ...]:
        # Two objects, because Keras identifies the outputs of a layer by id.
        mean, variance = (
            keras.KerasTensor((x.shape[-1],), dtype="float32") for _ in range(2)
        )
        y = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return y, mean, variance

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "synchronized": self.synchronized,
        }
