"""Tests of the fast filter gradient against TensorFlow and float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.model import convolution, vgg


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 4, 4), (5, 2, 2), (2, 1, 3)])
def test_filter_gradient_equals_tensorflow(shape):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(*shape, 6)).astype(np.float32)
    gradient = rng.normal(size=(*shape, 7)).astype(np.float32)
    wanted = np.zeros((3, 3, 6, 7))
    padded = np.pad(inputs.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    for y in range(3):
        for x in range(3):
            window = padded[:, y : y + shape[1], x : x + shape[2]]
            wanted[y, x] = np.einsum("nhwc,nhwf->cf", window, gradient)
    found = convolution.filter_gradient(inputs, gradient)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [8, 16])
def test_layer_equals_keras_forward_and_backward(side):
    inputs = tf.random.stateless_normal([4, side, side, 16], [1, 2])
    found, gradients = {}, {}
    for kind in (keras.layers.Conv2D, convolution.Convolution):
        layer = kind(
            24, 3, padding="same", dtype="mixed_bfloat16", use_bias=False
        )
        layer.build(inputs.shape)
        weights = tf.random.stateless_normal([3, 3, 16, 24], [3, 4])
        layer.kernel.assign(weights)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            found[kind] = layer(inputs)
            loss = tf.reduce_sum(tf.cast(found[kind], tf.float32) ** 2)
        gradients[kind] = tape.gradient(loss, [inputs, layer.kernel.value])
    (one, other), (ours, theirs) = found.values(), gradients.values()
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ours[0], theirs[0])
    for gradient in (ours[1], theirs[1]):
        assert gradient.dtype == tf.float32
    error = np.linalg.norm(ours[1] - theirs[1]) / np.linalg.norm(theirs[1])
    assert error < 4e-3  # bfloat16 has 8 bits, and both results are rounded.


def test_small_feature_maps_use_it_and_names_are_kept():
    plain = vgg.vgg16(width=0.125, precision="bfloat16")
    quick = vgg.vgg16(width=0.125, precision="bfloat16", for_cpu=True)
    names = [v.path for v in plain.trainable_variables]
    assert [v.path for v in quick.trainable_variables] == names

    @tf.function(autograph=False)
    def gradients(images):
        with tf.GradientTape() as tape:
            logits, _ = quick(images, training=True)
            loss = tf.reduce_sum(logits)
        return tape.gradient(loss, [v.value for v in quick.trainable_variables])

    graph = gradients.get_concrete_function(tf.TensorSpec([4, 32, 32, 3]))
    kinds = [op.type for op in graph.graph.get_operations()]
    # Blocks 1 and 2 have two convolutions each on feature maps of 32 and 16.
    assert kinds.count("Conv2DBackpropFilter") == 4
    assert kinds.count("Conv2D") == 13 + 9
