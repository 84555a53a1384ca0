"""Stateless random numbers of a step for the global batch.

    draws = Draws(seed, step, global_batch_size, first, size, num_images)
    draws.uniform(purpose, columns=4)     # float32 [b, 4]

They are drawn for the global batch and then sliced. A position therefore has
the same numbers on any number of replicas. The purpose is an integer that
belongs to one draw of one operation; see `operations`. Integers are float32
too, because on a GPU TensorFlow computes with int32 on the host.

All numbers but those of `beta` are equal bit by bit with and without XLA.
"""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random numbers of one step, for one replica's part of the batch.

    Attributes:
      seed: Seed of the run.
      step: Training step, int64 [].
      global_batch_size: Number of images in the global batch.
      first: First position of this replica in the global batch, int32 [] or an
        int.
      size: Number of this replica's images, b.
      num_images: Number of images in the training split.
    """

    seed: int
    step: tf.Tensor
    global_batch_size: int
    first: tf.Tensor | int
    size: int
    num_images: int

    def integers(self, purpose: int, high: int, columns: int = 1) -> tf.Tensor:
        """Returns integers from 0 to high - 1, float32 [b, columns]."""
        drawn = tf.random.stateless_uniform(
            [self.global_batch_size, columns],
            self._key(purpose),
            maxval=high,
            dtype=tf.int32,
            alg="philox",
        )
        return self._mine(tf.cast(drawn, tf.float32))

    def uniform(self, purpose: int, columns: int = 1) -> tf.Tensor:
        """Returns numbers uniform over [0, 1), float32 [b, columns]."""
        drawn = uniform([self.global_batch_size, columns], self._key(purpose))
        return self._mine(drawn)

    def beta(self, purpose: int, alpha: float) -> tf.Tensor:
        """Returns numbers from Beta(alpha, alpha), 0 to 1, float32 [b, 1].

        XLA has no kernel for this distribution.
        """
        # With a small alpha the gammas are too small for float32.
        gammas = tf.random.stateless_gamma(
            [self.global_batch_size, 2],
            self._key(purpose),
            alpha=tf.constant(alpha, tf.float64),
            dtype=tf.float64,
        )
        total = tf.reduce_sum(gammas, axis=1, keepdims=True)
        share = tf.math.divide_no_nan(gammas[:, :1], total)
        return self._mine(tf.cast(share, tf.float32))

    def _key(self, purpose: int) -> tf.Tensor:
        return tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, purpose], tf.int64),
            self.step,
            alg="philox",
        )

    def _mine(self, drawn: tf.Tensor) -> tf.Tensor:
        # tf.slice has a static size, which XLA needs if `first` is a tensor.
        return tf.slice(drawn, [self.first, 0], [self.size, drawn.shape[1]])


def uniform(shape: list[int], key: tf.Tensor) -> tf.Tensor:
    """Returns the same numbers as `tf.random.stateless_uniform`, under XLA too.

    Args:
      shape: Shape of the result.
      key: Seed, int64 [2].

    Returns:
      Numbers uniform over [0, 1), float32.
    """
    bits = tf.random.stateless_uniform(
        shape, key, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    # 23 bits are the mantissa of a float from 1 to 2, as in TensorFlow.
    mantissa = tf.bitwise.bitwise_and(bits, tf.constant(0x7FFFFF, tf.uint32))
    one = tf.constant(0x3F800000, tf.uint32)
    return tf.bitcast(tf.bitwise.bitwise_or(mantissa, one), tf.float32) - 1.0
