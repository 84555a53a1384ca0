"""Tests of the layers against Keras and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.model import layers


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_normalization_equals_keras(synchronized):
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 5)).astype(np.float32)
    ours = layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=synchronized
    )
    theirs = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    with tf.GradientTape() as tape:
        y, mean, variance = ours(x, training=True)
        loss = tf.reduce_sum(tf.sin(y))
    gradients = tape.gradient(loss, [ours.gamma.value, ours.beta.value])
    with tf.GradientTape() as tape:
        wanted = theirs(x, training=True)
        loss = tf.reduce_sum(tf.sin(wanted))
    wanted_gradients = tape.gradient(
        loss, [theirs.gamma.value, theirs.beta.value]
    )
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 1, 2), ddof=1), rtol=1e-4)
    ours.moving_mean.assign(mean)
    ours.moving_variance.assign(variance)
    scored, *_ = ours(x, training=False)
    np.testing.assert_allclose(scored, wanted, atol=0.02)


@pytest.mark.parametrize("bgr", [False, True])
def test_pixels_are_standardized_per_channel(bgr):
    layer = layers.Standardize((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), bgr=bgr)
    pixels = np.array([[[[10, 20, 30]]]], np.uint8)
    wanted = [14.5, 4.5, 0.875] if bgr else [4.5, 4.5, 3.375]
    np.testing.assert_array_equal(layer(pixels)[0, 0, 0], wanted)


def test_dropout_sets_a_fraction_to_zero_and_keeps_the_mean():
    layer = layers.Dropout(0.25)
    x = tf.ones([1000, 8])
    noise = tf.random.stateless_uniform([1000, 8], [1, 2])
    dropped = layer(x, noise, training=True).numpy()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(layer(x, noise, training=False), x)


def test_random_numbers_and_pixels_are_not_rounded():
    x = tf.ones([1, 2], tf.bfloat16)
    # In bfloat16 the first number would be 0.5.
    noise = tf.constant([[0.4999, 0.5]])
    dropout = layers.Dropout(0.5, dtype="mixed_bfloat16")
    assert np.array_equal(dropout(x, noise, training=True), [[0.0, 2.0]])
    pixels = tf.constant([200.3, 200.3, 200.3], shape=[1, 1, 1, 3])
    standardize = layers.Standardize(
        [200.0] * 3, [1.0] * 3, dtype="mixed_bfloat16"
    )
    assert np.allclose(standardize(pixels), 0.3, atol=2e-3)
