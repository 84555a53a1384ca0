"""Whitening: what comes out is uncorrelated, and it never trains."""

import numpy as np
import pytest
import tensorflow as tf

from configs import smoke
from job import build, train
from job import trained as trained_lib
from job.model import vgg as model
from job.model import whitening
from job.supervision import preemption
from job.training import phases
from job.training.plan import Plan


@pytest.fixture(scope="module")
def images():
    """Smooth images: neighbouring pixels say nearly the same."""
    noise = np.random.default_rng(0).normal(0, 1, (200, 36, 36, 3))
    smooth = sum(
        noise[:, i : i + 32, j : j + 32] for i in range(5) for j in range(5)
    )
    smooth[..., 1] += smooth[..., 0]
    return np.clip(128 + 8 * smooth, 0, 255).astype(np.uint8)


def test_patches_come_out_uncorrelated_with_unit_variance(images):
    mean, divisor, _ = model.PREPROCESSING["standardize"]
    filters = whitening.whitening_filters(images, mean, divisor)
    assert filters.shape == (3, 3, 3, 27)
    assert filters.dtype == np.float32
    pixels = ((images - mean) / divisor).astype(np.float32)
    seen = tf.nn.conv2d(pixels, filters, strides=1, padding="VALID").numpy()
    covariance = np.cov(seen.reshape(-1, 27).T)
    variances = np.diag(covariance)
    # variance / (variance + epsilon), most first.
    assert (np.diff(variances) < 1e-3).all()
    assert variances[0] == pytest.approx(1.0, abs=1e-2)
    assert (variances > 0.5).all()
    assert (variances < 1.01).all()
    assert np.abs(covariance - np.diag(variances)).max() < 1e-3


def test_the_network_begins_with_it_in_float32(images):
    network = model.vgg16(width=0.125, precision="bfloat16", whitening=True)
    layer = network.get_layer(model.WHITENING)
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape)
    layer.kernel.assign(kernel)
    standardized = network.get_layer("standardize")(images[:4])
    assert standardized.dtype == layer(standardized).dtype == tf.float32
    assert model.blocks(network)[0] == model.WHITENING
    assert network.get_layer("block1_conv1").kernel.shape == (3, 3, 27, 8)
    costs = model.gflop(network, 32)
    assert costs[model.WHITENING] == pytest.approx(2e-9 * 32**2 * 27 * 27)


def test_a_run_keeps_the_filters_as_they_are(tmp_path):
    config = smoke.get_config()
    config.model.whitening = True
    config.model.width = 0.0625
    config.steps = 3
    train.train_and_evaluate(config, tmp_path, preemption.StopRequest())
    trained = trained_lib.load_trained(tmp_path)
    kernel = trained.network.get_layer(model.WHITENING).kernel.numpy()
    data = build.load_data(config)
    mean, divisor, _ = model.PREPROCESSING["standardize"]
    wanted = whitening.whitening_filters(data.train.images, mean, divisor)
    np.testing.assert_array_equal(kernel, wanted)
    assert np.abs(kernel).max() > 0
    for phase in Plan.create(config, num_images=640).phases:
        assert phase.open_blocks == {model.HEAD, *phases.BLOCK_NAMES}
