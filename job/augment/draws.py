"""The random numbers of a step: stateless, for the whole global batch.

    draws = Draws(seed, step, global_batch_size, first, size)
    draws.uniform(Purpose.CUTMIX, columns=4)     # float32 [b, 4]

They are drawn for the whole global batch and then sliced, so a position has
the same numbers on any number of replicas. All are float32, whole numbers too:
on a GPU TensorFlow computes with int32 on the host.
"""

import dataclasses
import enum

import tensorflow as tf


class Purpose(enum.IntEnum):
    """Tells the draws apart. A number, once given, stays: it fixes results."""

    FLIP = 0
    TRANSLATE = 1
    CUTOUT = 2
    WARP = 3
    JITTER = 4
    AUTOAUGMENT = 5
    RANDAUGMENT = 6
    MIXUP = 7
    CUTMIX = 8


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random numbers of one step, for one replica's part of the batch.

    Attributes:
      seed: of the run.
      step: int64 [], the training step.
      global_batch_size: for how many images is drawn.
      first: int32 [], this replica's first position in the global batch.
      size: how many of them are this replica's, b.
    """

    seed: int
    step: tf.Tensor
    global_batch_size: int
    first: tf.Tensor
    size: int

    def integers(
        self, purpose: Purpose, high: int, columns: int = 1
    ) -> tf.Tensor:
        """Returns float32 [b, columns], whole, uniform over 0 to high - 1."""
        drawn = tf.random.stateless_uniform(
            [self.global_batch_size, columns],
            self._key(purpose),
            maxval=high,
            dtype=tf.int32,
            alg="philox",
        )
        return self._mine(tf.cast(drawn, tf.float32))

    def uniform(self, purpose: Purpose, columns: int = 1) -> tf.Tensor:
        """Returns float32 [b, columns], uniform over [0, 1)."""
        drawn = tf.random.stateless_uniform(
            [self.global_batch_size, columns],
            self._key(purpose),
            alg="philox",
        )
        return self._mine(drawn)

    def beta(self, purpose: Purpose, alpha: float) -> tf.Tensor:
        """Returns float32 [b, 1] from Beta(alpha, alpha), in [0, 1]."""
        # float64: where alpha is small, a gamma is too small for float32.
        gammas = tf.random.stateless_gamma(
            [self.global_batch_size, 2],
            self._key(purpose),
            alpha=tf.constant(alpha, tf.float64),
            dtype=tf.float64,
        )
        total = tf.reduce_sum(gammas, axis=1, keepdims=True)
        share = tf.math.divide_no_nan(gammas[:, :1], total)
        return self._mine(tf.cast(share, tf.float32))

    def _key(self, purpose: Purpose) -> tf.Tensor:
        return tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, int(purpose)], tf.int64),
            self.step,
            alg="philox",
        )

    def _mine(self, drawn: tf.Tensor) -> tf.Tensor:
        mine = drawn[self.first : self.first + self.size]
        return tf.ensure_shape(mine, [self.size, drawn.shape[1]])
