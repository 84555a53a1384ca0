"""Tests of the cost of an image and of training."""

import math

import pytest
import tensorflow as tf

from job.model import flops, spec, vgg
from job.training import optimizer

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


def test_cost_of_muon_is_that_of_its_products():
    network = vgg.vgg16(width=0.25)
    counted = 0
    for variable in network.trainable_variables:
        if len(variable.shape) == 4:
            matrix = tf.reshape(variable, [-1, variable.shape[-1]])
            graph = tf.function(optimizer.orthogonalize).get_concrete_function(
                tf.TensorSpec(matrix.shape)
            )
            for op in graph.graph.get_operations():
                if "MatMul" in op.type:
                    # Shapes [m, k], [k, n] and [m, n], for 2 m k n operations.
                    tensors = [*op.inputs, *op.outputs]
                    sizes = [t.shape.num_elements() for t in tensors]
                    counted += 2 * math.isqrt(math.prod(sizes))
    assert flops.muon_gflop(network) == pytest.approx(counted / 1e9)
