"""Tests of the cost of an image and of training."""

import pytest

from job.model import flops, spec, vgg

ALL_BLOCKS = frozenset([*spec.BLOCK_NAMES, spec.HEAD])


def test_cost_is_that_of_the_published_network():
    # chenyaofo/pytorch-cifar-models counts 313.73 million multiplications and
    # additions, of which 0.28 million are batch normalization's.
    network = vgg.vgg16()
    cost = flops.image_gflop(network, 32, ALL_BLOCKS)
    assert cost.forward == pytest.approx(2 * 0.31373, rel=2e-3)
    assert cost.train == pytest.approx(3 * cost.forward)
    larger = flops.image_gflop(network, 128, {spec.HEAD})
    assert larger.forward == pytest.approx(16 * cost.forward, rel=1e-3)
    assert larger.train == pytest.approx(larger.forward, rel=1e-3)


def test_feature_maps_of_odd_size_are_rounded_up():
    network = vgg.vgg16(width=0.125, pool_padding="same")
    small = flops.forward_gflop_by_block(network, 24)
    usual = flops.forward_gflop_by_block(network, 32)
    assert small["block4"] == pytest.approx(usual["block4"] * 9 / 16)
    assert small["block5"] == usual["block5"]
