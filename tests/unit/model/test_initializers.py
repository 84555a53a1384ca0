"""Tests of the distribution and the seed of initial weights."""

import numpy as np
import pytest
import tensorflow as tf

from job.model import initializers, vgg


@pytest.mark.parametrize(
    ("init", "std"),
    [
        ("he_fan_out", (2 / (9 * 512)) ** 0.5),
        ("glorot", (2 / (9 * 1024)) ** 0.5),
        ("torch", (1 / (9 * 512)) ** 0.5 / 3**0.5),
    ],
)
def test_kernels_have_the_deviation_of_their_formula(init, std):
    network = vgg.vgg16(init=init)
    kernel = network.get_layer("block5_conv2").kernel.numpy()
    assert kernel.std() == pytest.approx(std, rel=0.01)
    assert abs(kernel.mean()) < std / 100


def test_dirac_has_identity_filters():
    network = vgg.vgg16(width=0.125, init="dirac")
    plain = vgg.vgg16(width=0.125)
    for name, passed in (("block1_conv1", 3), ("block4_conv1", 32)):
        layer = network.get_layer(name)
        x = np.random.default_rng(0).normal(size=(2, 4, 4, passed))
        y = layer(tf.constant(x, tf.float32)).numpy()
        np.testing.assert_allclose(y[..., :passed], x, rtol=1e-6)
        # The other filters are those of he_fan_out.
        np.testing.assert_array_equal(
            layer.kernel[..., passed:],
            plain.get_layer(name).kernel[..., passed:],
        )


def test_the_seed_fixes_the_weights():
    one, again, other = (vgg.vgg16(width=0.125, seed=s) for s in (1, 1, 2))
    for a, b in zip(one.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert (one.variables[0].numpy() != other.variables[0].numpy()).any()


def test_every_layer_draws_its_own_weights():
    made = initializers.Initializers("torch", seed=0, num_layers=30)
    drawn = [
        initializer([4])
        for _ in range(15)
        for arguments in (made.convolution(fan_in=4), made.dense(fan_in=4))
        for initializer in arguments.values()
    ]
    assert len({value.numpy().tobytes() for value in drawn}) == 60
