"""Keras layers of our own: standardization, dropout, batch normalization."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Standardize(keras.layers.Layer):
    """(pixel - mean) / divisor, each channel by its own, in float32."""

    def __init__(
        self,
        mean: Sequence[float],
        divisor: Sequence[float],
        *,
        turned: bool = False,
        **kwargs: Any,
    ) -> None:
        """Creates the layer.

        Args:
          mean: a number a channel, 0 to 255, in the order that goes out.
          divisor: likewise.
          turned: red, green, blue come in and blue, green, red go out.
          **kwargs: as of every Keras layer.
        """
        super().__init__(**kwargs)
        self.mean, self.divisor = tuple(mean), tuple(divisor)
        self.turned = turned

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Takes [b, h, w, 3], 0 to 255; gives its shape, compute dtype."""
        images = tf.cast(images, tf.float32)
        if self.turned:
            # A reversal is a copy on its own; this joins what follows.
            images = tf.stack(tf.unstack(images, axis=-1)[::-1], axis=-1)
        scaled = (images - tf.constant(self.mean)) / tf.constant(self.divisor)
        return tf.cast(scaled, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean": self.mean,
            "divisor": self.divisor,
            "turned": self.turned,
        }


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) with random numbers from outside.

    Keras' own layer keeps its generator in a variable, with the same start on
    each replica: all replicas would drop the same units, and a resume others
    than the uninterrupted run.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(
        self, x: tf.Tensor, noise: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Sets units to 0 where the noise is below the rate, in training.

        Args:
          x: [b, d], any float type.
          noise: float32 [b, d], uniform over 0 to 1.
          training: else x is returned as it is.
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
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


class BatchNormalization(keras.layers.Layer):
    """Batch normalization on TensorFlow's fused kernel (Ioffe & Szegedy 2015).

    Keras 3's own layer is made of separate operations; the fused kernel is
    faster, and takes bfloat16 in and out with float32 moments. The layer's
    running moments are assigned by the step, not here.
    """

    def __init__(
        self,
        *,
        momentum: float,
        epsilon: float,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
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
        """Normalizes over all axes but the last.

        Args:
          x: [b, h, w, c], any float type.
          training: use the batch's moments, else the running ones.

        Returns:
          x normalized, of its shape and type, and the float32 [c] mean and
          [c] variance (with Bessel's correction) of the batch. Not in
          training, those are the running ones.
        """
        if training and self.synchronized:
            return self._call_synchronized(x)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma,
            offset=self.beta,
            # In training the kernel wants them empty to start from nothing.
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
        """Takes the moments over the global batch, in two passes.

        One pass, of x and of x squared, would do and would lose half the
        digits. Each image's mean is gathered from all replicas and only then
        are the images summed, in the global batch's order: so the sum rounds
        the same whatever the number of replicas, and so do all activations.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        replica = context.replica_id_in_sync_group

        def mean_over_global_batch(value: tf.Tensor) -> tf.Tensor:
            value = tf.reduce_mean(value, axis=[1, 2])
            if replicas > 1:
                # Gathers by a sum with zeros, which is exact; all_gather would
                # do, but its collectives of two strategies in a process
                # collide.
                before = value.shape[0] * replica
                after = value.shape[0] * (replicas - 1) - before
                value = tf.pad(value, [[before, after], [0, 0]])
                value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            return tf.reduce_mean(value, axis=0)

        wide = tf.cast(x, tf.float32)
        mean = mean_over_global_batch(wide)
        centred = wide - mean
        variance = mean_over_global_batch(tf.square(centred))
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        y = tf.cast(centred * scale + self.beta, x.dtype)
        count = tf.cast(tf.size(x) // x.shape[-1] * replicas, tf.float32)
        return y, mean, variance * (count / tf.maximum(count - 1, 1))

    def compute_output_spec(
        self, x: keras.KerasTensor, training: bool = False
    ) -> tuple[keras.KerasTensor, ...]:
        # Two objects: Keras tells a layer's outputs apart by their identity.
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
