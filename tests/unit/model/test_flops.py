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


def test_the_cost_of_a_training_is_the_sum_of_its_phases():
    network = vgg.vgg16(width=0.125)
    small, large = (
        flops.image_gflop(network, size, ALL_BLOCKS).train for size in (32, 64)
    )
    found = flops.train_tflop(
        network,
        [(30, 32, ALL_BLOCKS), (10, 64, ALL_BLOCKS), (0, 96, ALL_BLOCKS)],
        global_batch_size=10,
    )
    assert found == pytest.approx((300 * small + 100 * large) / 1e3)


def test_features_cost_the_base_once():
    network = vgg.vgg16(width=0.125)

    def cost(steps):
        return flops.features_train_tflop(
            network,
            size=64,
            num_images=500,
            train_steps=steps,
            global_batch_size=10,
        )

    by_block = flops.forward_gflop_by_block(network, 64)
    once = 500 * sum(by_block.values()) / 1e3
    assert cost(0) == pytest.approx(once)
    assert cost(100) == pytest.approx(once + 3 * 1000 * by_block["head"] / 1e3)
