"""Tests of the network's shape, normalization and initial weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.data.dataset import PIXEL_MEAN, PIXEL_STD
from job.model import spec, vgg


def test_full_width_has_the_published_parameters():
    # kuangliu/pytorch-cifar's VGG16 has 14,728,266, of them 4,224 biases of
    # convolutions, which batch normalization makes idle.
    network = vgg.vgg16()
    trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    assert trainable == 14_728_266 - 4_224


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_logits_and_statistics_are_float32(precision, split):
    network = vgg.vgg16(width=0.125, precision=precision)
    logits, moments = network(split.images[:4], training=True)
    assert logits.shape == (4, 10)
    assert {t.dtype for t in (logits, *moments)} == {tf.float32}
    assert [m.shape for m in moments] == [
        v.shape for v in network.non_trainable_variables
    ]
    assert {v.dtype for v in network.variables} == {"float32"}


def test_first_statistics_are_those_of_the_first_convolution(split):
    network = vgg.vgg16(width=0.125)
    _, moments = network(split.images[:8], training=True)
    standardized = network.get_layer("standardize")(split.images[:8])
    x = network.get_layer("block1_conv1")(standardized).numpy()
    np.testing.assert_allclose(
        moments[0], x.mean((0, 1, 2)), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(moments[1], x.var((0, 1, 2), ddof=1), rtol=1e-3)
    names = [v.name for v in network.non_trainable_variables[:2]]
    assert names == ["moving_mean", "moving_variance"]


def test_width_stem_and_pooling_are_used():
    network = vgg.vgg16(width=0.5, stem_filters=16, pooling="avg")
    filters = [
        layer.filters
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert filters == [16] * 2 + [64] * 2 + [128] * 3 + [256] * 6
    kinds = {type(layer) for layer in network.layers}
    assert keras.layers.AveragePooling2D in kinds
    assert keras.layers.MaxPooling2D not in kinds


def test_without_batch_norm_convolutions_have_biases():
    network = vgg.vgg16(width=0.125, batch_norm=False)
    assert not network.non_trainable_variables
    assert network.get_layer("block1_conv1").use_bias


def test_the_forward_pass_assigns_nothing(split):
    network = vgg.vgg16(width=0.125)
    before = [v.numpy() for v in network.variables]
    network(split.images[:8], training=True)
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_feature_maps_of_odd_size_are_pooled_to_the_edge(split):
    one = vgg.vgg16(width=0.125, pooling="avg")
    odd = vgg.vgg16(width=0.125, pooling="avg", pool_padding="same")
    images = split.images[:2]
    np.testing.assert_array_equal(
        one(images, training=False)[0], odd(images, training=False)[0]
    )
    maps = keras.Model(
        odd.inputs, {f"block{i}": _before_pool(odd, i) for i in range(1, 6)}
    )
    small = tf.image.resize(images, (24, 24))
    outputs = maps(small, training=False)
    sides = [outputs[f"block{i}"].shape[1] for i in range(1, 6)]
    assert sides == [24, 12, 6, 3, 2]
    # The corner of 3x3 is a separate value in the last row of 2x2.
    pooled = odd.get_layer("block4_pool")(outputs["block4"])
    np.testing.assert_array_equal(pooled[:, 1, 1], outputs["block4"][:, 2, 2])


def _before_pool(network, block):
    return network.get_layer(f"block{block}_pool").input


def test_pixel_statistics_equal_those_of_real_cifar10(cifar10_dir):
    from job.data import sources

    images = sources.load("binary", str(cifar10_dir)).train.images
    # The constants are for the published images. These are JPEGs of quality 75.
    np.testing.assert_allclose(images.mean((0, 1, 2)), PIXEL_MEAN, atol=1.5)
    np.testing.assert_allclose(images.std((0, 1, 2)), PIXEL_STD, atol=1.5)


def test_the_network_as_published_has_its_parameters():
    # torchvision's VGG16 with ten classes has 134,301,514; its first dense
    # layer takes a map of 7 x 7, at 32 px of 1 x 1.
    network = vgg.vgg16(
        batch_norm=False, head_pooling="flatten", head_units=(4096, 4096)
    )
    assert network.count_params() == 134_301_514 - 48 * 512 * 4096


def test_vgg16_of_keras_gives_the_same_features(split):
    keras_network = keras.applications.VGG16(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    network = vgg.vgg16(batch_norm=False, preprocessing="caffe")
    for layer in keras_network.layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    images = split.images[:4].astype(np.float32)
    theirs = keras_network(
        keras.applications.vgg16.preprocess_input(images.copy())
    )
    ours = vgg.split_base_and_head(network)[0](images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_base_and_head_compose_to_the_network(split):
    network = vgg.vgg16(width=0.125, batch_norm=False, head_units=(7,))
    base, head = vgg.split_base_and_head(network)
    np.testing.assert_allclose(
        head(base(split.images[:4]))[0], network(split.images[:4])[0], atol=1e-6
    )
    kernels = {id(v) for v in network.variables}
    assert {id(v) for m in (base, head) for v in m.variables} == kernels


@pytest.mark.parametrize("units", [(), (32, 16)])
def test_dropout_takes_a_random_number_per_unit(units):
    network = vgg.vgg16(width=0.125, head_units=units, dropout=0.25)
    width = vgg.noise_width(network)
    assert width == (sum(units) or 64)


def test_network_without_dropout_takes_no_noise():
    assert vgg.noise_width(vgg.vgg16(width=0.125)) == 0


def test_network_accepts_every_size(split):
    network = vgg.vgg16(width=0.125)
    for size in (32, 64, 96):
        images = tf.image.resize(split.images[:2], (size, size))
        assert network(images, training=True)[0].shape == (2, 10)


def test_other_depths_give_other_networks_of_the_paper():
    # keras.applications has no VGG13; torchvision's convolutions have 9,404,992
    # parameters, of which 2,944 are biases.
    vgg13 = [spec.Block(2, filters) for _, filters in spec.VGG16]
    network = vgg.vgg16(blocks=vgg13, num_classes=7)
    convolutions = [v for v in network.variables if v.name == "kernel"][:-1]
    assert len(convolutions) == 10
    found = sum(int(np.prod(v.shape)) for v in convolutions)
    assert found == 9_404_992 - 2_944
    assert network.outputs[0].shape == (None, 7)
