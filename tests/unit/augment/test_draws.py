"""Tests of the random numbers of a step."""

import numpy as np
import pytest
import tensorflow as tf

from job.augment import draws


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_mixing_weights_are_beta_distributed(alpha):
    drawn = draws.Draws(
        0, tf.constant(0, tf.int64), 20000, tf.constant(0), 20000, 50000
    ).beta(7, alpha)
    drawn = drawn.numpy()
    assert np.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.015)
    assert drawn.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.05)


def drawn_at(step):
    numbers = draws.Draws(3, step, 1024, 128, 512, 50000)
    return [
        numbers.uniform(1, 5),
        numbers.integers(2, 9, 2),
        numbers.integers(4, 32),
    ]


@pytest.mark.parametrize("step", [0, 5, 2**33])
def test_xla_draws_the_same_bits(step):
    step = tf.constant(step, tf.int64)
    plain = tf.function(drawn_at, autograph=False)(step)
    compiled = tf.function(drawn_at, jit_compile=True, autograph=False)(step)
    for one, other in zip(plain, compiled, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_uniform_equals_tensorflow():
    key = tf.constant([7, 2**40], tf.int64)
    wanted = tf.random.stateless_uniform([1000, 5], key, alg="philox")
    found = draws.uniform([1000, 5], key)
    assert found.numpy().tobytes() == wanted.numpy().tobytes()
