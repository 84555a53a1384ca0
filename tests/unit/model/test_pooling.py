"""Tests of max pooling for XLA against TensorFlow's kernel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.model import pooling, vgg


def pooled(pool, images, gradient, jit_compile):
    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(images, gradient):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maxima = pool(images)
        return maxima, tape.gradient(maxima, images, gradient)

    return [value.numpy().tobytes() for value in run(images, gradient)]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_value_and_gradient_are_those_of_the_kernel(dtype, jit_compile):
    rng = np.random.default_rng(0)
    # One decimal, and half of the values 0, cause many ties.
    images = np.maximum(rng.normal(size=(4, 8, 6, 5)), 0).round(1)
    images[0] = 0
    images = tf.cast(images, dtype)
    gradient = tf.cast(rng.normal(size=(4, 4, 3, 5)), dtype)
    wanted = pooled(
        lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"), images, gradient, False
    )
    found = pooled(pooling.max_pool, images, gradient, jit_compile)
    assert found == wanted


@pytest.mark.parametrize("size", [5, 6])
def test_an_odd_feature_map_is_pooled_by_keras(size):
    images = tf.random.stateless_normal([2, size, size, 3], [1, 2])
    ours = pooling.MaxPooling(2, padding="same")(images)
    theirs = keras.layers.MaxPooling2D(2, padding="same")(images)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("for_xla", [False, True])
def test_max_pooling_for_xla_is_only_used_with_xla(for_xla):
    network = vgg.vgg16(width=0.125, for_xla=for_xla)
    kinds = [type(layer) for layer in network.layers]
    assert kinds.count(pooling.MaxPooling) == (5 if for_xla else 0)
    assert vgg.vgg16(width=0.125, for_xla=True, pooling="avg")
