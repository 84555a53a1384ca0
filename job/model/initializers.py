"""Initial weights of the network, fixed by a seed.

initializers = Initializers("he_fan_out", seed=0, num_layers=14)
keras.layers.Conv2D(64, 3, **initializers.convolution(fan_in=27))
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Separates these random numbers from other draws with the same seed.
_INITIAL_WEIGHTS = 0x5647

_Arguments = dict[str, keras.initializers.Initializer]


class Initializers:
    """Initializers of one layer after another.

    `init` is one of:

    he_fan_out: N(0, 2 / fan_out) for kernels, N(0, 0.01^2) for the head, as in
      torchvision's VGG (He et al. 2015, arXiv:1502.01852).
    glorot: Uniform by fan_in and fan_out, the default of Keras.
    torch: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)) for kernels and biases, the
      default of PyTorch.
    dirac: he_fan_out, but with an identity filter per input channel in each
      convolution (Zagoruyko & Komodakis 2017, DiracNets; partial as in Jordan
      2024, arXiv:2404.00498).
    """

    def __init__(self, init: str, *, seed: int, num_layers: int) -> None:
        """Derives two seeds per layer, for its kernel and its bias.

        Args:
          init: Name of the distribution: he_fan_out, glorot, torch or dirac.
          seed: Seed of the run, 0 or larger.
          num_layers: Number of layers that have weights.
        """
        self._kernel, self._bias, self._head = {
            "he_fan_out": (_he_normal, _zeros, _small_normal),
            "dirac": (_dirac, _zeros, _small_normal),
            "glorot": (_glorot_uniform, _zeros, _glorot_uniform),
            "torch": (_torch_kernel, _torch_bias, _torch_kernel),
        }[init]
        sequence = np.random.SeedSequence([seed, _INITIAL_WEIGHTS])
        self._seeds = iter(sequence.generate_state(2 * num_layers))

    def convolution(self, fan_in: int) -> _Arguments:
        """Returns the initializer arguments of the next convolution.

        Args:
          fan_in: Number of inputs of an output value, the kernel size times the
            channels.
        """
        return self._create(self._kernel, fan_in)

    def dense(self, fan_in: int) -> _Arguments:
        """Returns the initializer arguments of the next dense layer.

        Args:
          fan_in: Number of inputs of the layer.
        """
        return self._create(self._head, fan_in)

    def _create(
        self,
        kernel: Callable[[int], keras.initializers.Initializer],
        fan_in: int,
    ) -> _Arguments:
        return {
            "kernel_initializer": kernel(int(next(self._seeds))),
            "bias_initializer": self._bias(int(next(self._seeds)), fan_in),
        }


class Dirac(keras.initializers.Initializer):
    """Initializer whose first filters are the identity of an input channel."""

    def __init__(self, others: keras.initializers.Initializer) -> None:
        """Wraps the initializer of the other filters."""
        self._others = others

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns filters in which filter i < c is the identity of channel i.

        Args:
          shape: Shape of the filters, [h, w, c, f], h and w odd.
          dtype: Data type of the result.
        """
        kernel = np.array(self._others(shape, dtype))
        height, width, channels, filters = shape
        passing = min(channels, filters)
        kernel[..., :passing] = 0.0
        index = np.arange(passing)
        kernel[height // 2, width // 2, index, index] = 1.0
        return tf.constant(kernel)


def _zeros(seed: int, fan_in: int) -> keras.initializers.Initializer:
    return keras.initializers.Zeros()


def _torch_bias(seed: int, fan_in: int) -> keras.initializers.Initializer:
    limit = fan_in**-0.5
    return keras.initializers.RandomUniform(-limit, limit, seed=seed)


def _torch_kernel(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(
        1 / 3, "fan_in", "uniform", seed=seed
    )


def _he_normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal", seed=seed
    )


def _dirac(seed: int) -> keras.initializers.Initializer:
    return Dirac(_he_normal(seed))


def _small_normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.01, seed=seed)


def _glorot_uniform(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed)
