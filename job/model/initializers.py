"""Initial weights of the network."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Dirac(keras.initializers.Initializer):
    """Hands channels on by the first filters; draws the others."""

    def __init__(self, others: keras.Initializer) -> None:
        self._others = others

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns [h, w, c, f], h and w odd; filter i < c passes channel i."""
        kernel = np.array(self._others(shape, dtype))
        height, width, channels, filters = shape
        passing = min(channels, filters)
        kernel[..., :passing] = 0.0
        index = np.arange(passing)
        kernel[height // 2, width // 2, index, index] = 1.0
        return tf.constant(kernel)


def create_initializers(init: str) -> tuple[Callable, Callable, Callable]:
    """Returns functions that make initializers of kernels, biases and the head.

    he_fan_out: N(0, 2 / fan_out) for kernels, N(0, .01^2) for the head (as
      torchvision's VGG; He et al. 2015, arXiv:1502.01852).
    glorot: uniform, by fan_in and fan_out, as Keras does by itself.
    torch: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for all of them, biases
      too, as PyTorch does by itself.
    dirac: he_fan_out, but the first filters of a convolution, one for each
      channel that comes in, hand that channel on unchanged, so that a deep
      network starts as a shallow one (Zagoruyko & Komodakis 2017, DiracNets;
      in part as here: Jordan 2024, arXiv:2404.00498).
    """
    initializers = keras.initializers

    def zeros(seed: int, fan_in: int) -> keras.Initializer:
        return initializers.Zeros()

    def torch_bias(seed: int, fan_in: int) -> keras.Initializer:
        limit = fan_in**-0.5
        return initializers.RandomUniform(-limit, limit, seed=seed)

    def he(seed: int) -> keras.Initializer:
        return initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=seed
        )

    def dirac(seed: int) -> keras.Initializer:
        return Dirac(he(seed))

    def small_normal(seed: int) -> keras.Initializer:
        return initializers.RandomNormal(stddev=0.01, seed=seed)

    def glorot(seed: int) -> keras.Initializer:
        return initializers.GlorotUniform(seed=seed)

    def torch_kernel(seed: int) -> keras.Initializer:
        return initializers.VarianceScaling(
            1 / 3, "fan_in", "uniform", seed=seed
        )

    return {
        "he_fan_out": (he, zeros, small_normal),
        "dirac": (dirac, zeros, small_normal),
        "glorot": (glorot, zeros, glorot),
        "torch": (torch_kernel, torch_bias, torch_kernel),
    }[init]
