"""The network: its shape, its normalization, its initial weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.model import flops, layers, variables
from job.model import vgg as model


def test_full_width_has_the_published_parameters():
    # kuangliu/pytorch-cifar's VGG16 has 14,728,266, of them 4,224 biases of
    # convolutions, which batch normalization makes idle.
    network = model.vgg16()
    trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    assert trainable == 14_728_266 - 4_224


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_logits_and_moments_are_float32(precision, split):
    network = model.vgg16(width=0.125, precision=precision)
    logits, moments = network(split.images[:4], training=True)
    assert logits.shape == (4, 10)
    assert {t.dtype for t in (logits, *moments)} == {tf.float32}
    assert [m.shape for m in moments] == [
        v.shape for v in network.non_trainable_variables
    ]
    assert {v.dtype for v in network.variables} == {"float32"}


def test_the_first_moments_are_those_of_the_first_convolution(split):
    network = model.vgg16(width=0.125)
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
    network = model.vgg16(width=0.5, stem_filters=16, pooling="avg")
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
    network = model.vgg16(width=0.125, batch_norm=False)
    assert not network.non_trainable_variables
    assert network.get_layer("block1_conv1").use_bias
    assert variables.running_momentum(network) == 0.0


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


def test_the_forward_pass_assigns_nothing(split):
    network = model.vgg16(width=0.125)
    before = [v.numpy() for v in network.variables]
    network(split.images[:8], training=True)
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_odd_maps_are_pooled_whole(split):
    one = model.vgg16(width=0.125, pooling="avg")
    odd = model.vgg16(width=0.125, pooling="avg", odd_maps=True)
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
    # The corner of 3x3 is on its own, in the last row of 2x2.
    pooled = odd.get_layer("block4_pool")(outputs["block4"])
    np.testing.assert_array_equal(pooled[:, 1, 1], outputs["block4"][:, 2, 2])
    assert flops.gflop(odd, 24)["block4"] == pytest.approx(
        flops.gflop(odd, 32)["block4"] * 9 / 16
    )
    assert flops.gflop(odd, 24)["block5"] == flops.gflop(odd, 32)["block5"]


def _before_pool(network, block):
    return network.get_layer(f"block{block}_pool").input


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he_fan_out", (2 / (9 * 512)) ** 0.5),
        ("glorot", (2 / (9 * 1024)) ** 0.5),
        ("torch", (1 / (9 * 512)) ** 0.5 / 3**0.5),
    ],
)
def test_kernels_start_as_their_formula_says(init, std):
    network = model.vgg16(init=init)
    kernel = network.get_layer("block5_conv2").kernel.numpy()
    assert kernel.std() == pytest.approx(std, rel=0.01)
    assert abs(kernel.mean()) < std / 100


def test_a_network_can_start_by_handing_its_channels_on():
    network = model.vgg16(width=0.125, init="dirac")
    plain = model.vgg16(width=0.125)
    for name, passed in (("block1_conv1", 3), ("block4_conv1", 32)):
        layer = network.get_layer(name)
        x = np.random.default_rng(0).normal(size=(2, 4, 4, passed))
        y = layer(tf.constant(x, tf.float32)).numpy()
        np.testing.assert_allclose(y[..., :passed], x, rtol=1e-6)
        # The other filters are what they would be.
        np.testing.assert_array_equal(
            layer.kernel[..., passed:],
            plain.get_layer(name).kernel[..., passed:],
        )


def test_the_seed_fixes_the_weights():
    one, again, other = (model.vgg16(width=0.125, seed=s) for s in (1, 1, 2))
    for a, b in zip(one.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert (one.variables[0].numpy() != other.variables[0].numpy()).any()


def test_decay_is_for_kernels():
    network = model.vgg16(width=0.125)
    paths = [v.path for v in network.trainable_variables]
    decayed = variables.decayed(network)
    assert decayed == [path.endswith("/kernel") for path in paths]
    assert sum(decayed) == 14


def test_pixel_moments_are_those_of_real_cifar10(cifar10_dir):
    from job.data import sources

    images = sources.load("binary", str(cifar10_dir)).train.images
    # Quality-75 JPEGs here; the constants are of the published images.
    np.testing.assert_allclose(
        images.mean((0, 1, 2)), model.PIXEL_MEAN, atol=1.5
    )
    np.testing.assert_allclose(images.std((0, 1, 2)), model.PIXEL_STD, atol=1.5)


def test_the_network_as_published_has_its_parameters():
    # torchvision's VGG16 with ten classes has 134,301,514; its first dense
    # layer takes a map of 7 x 7, at 32 px of 1 x 1.
    network = model.vgg16(
        batch_norm=False, head_pooling="flatten", head_units=(4096, 4096)
    )
    assert network.count_params() == 134_301_514 - 48 * 512 * 4096


def test_kerass_vgg16_gives_the_same_features(split):
    keras_network = keras.applications.VGG16(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    network = model.vgg16(batch_norm=False, preprocessing="caffe")
    for layer in keras_network.layers:
        if layer.weights:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    images = split.images[:4].astype(np.float32)
    theirs = keras_network(
        keras.applications.vgg16.preprocess_input(images.copy())
    )
    ours = model.split(network)[0](images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_two_halves_are_the_whole(split):
    network = model.vgg16(width=0.125, batch_norm=False, head_units=(7,))
    base, head = model.split(network)
    np.testing.assert_allclose(
        head(base(split.images[:4]))[0], network(split.images[:4])[0], atol=1e-6
    )
    kernels = {id(v) for v in network.variables}
    assert {id(v) for m in (base, head) for v in m.variables} == kernels


@pytest.mark.parametrize("units", [(), (32, 16)])
def test_dropout_drops_its_share_and_keeps_the_mean(units):
    network = model.vgg16(width=0.125, head_units=units, dropout=0.25)
    width = model.noise_width(network)
    assert width == (sum(units) or 64)
    layer = network.get_layer("dropout1")
    x = tf.ones([1000, 8])
    noise = tf.random.stateless_uniform([1000, 8], [1, 2])
    dropped = layer(x, noise, training=True).numpy()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(layer(x, noise, training=False), x)


def test_no_dropout_takes_no_noise():
    assert model.noise_width(model.vgg16(width=0.125)) == 0


def test_one_network_takes_every_size(split):
    network = model.vgg16(width=0.125)
    for size in (32, 64, 96):
        images = tf.image.resize(split.images[:2], (size, size))
        assert network(images, training=True)[0].shape == (2, 10)
