"""Tests of targets, hits and the parts of the backward pass."""

import numpy as np
import pytest
import tensorflow as tf

from job.augment import Augmented
from job.model import resize as resize_lib
from job.model import spec, variables, vgg
from job.training import loss


def test_targets_are_smoothed_over_all_classes():
    targets = loss.smoothed_targets(
        tf.constant([3]), num_classes=5, label_smoothing=0.1
    ).numpy()
    np.testing.assert_allclose(targets, [[0.02, 0.02, 0.02, 0.92, 0.02]])


def test_mixed_targets_are_those_of_both_partners():
    labels = tf.constant([3, 7, 1, 1])
    weight = tf.constant([0.75, 0.75, 0.5, 0.5])
    targets = loss.smoothed_targets(labels, num_classes=10, label_smoothing=0.1)
    mixed = loss.mixed_targets(targets, weight).numpy()
    wanted = np.full([4, 10], 0.01)
    wanted[0, [3, 7]] += (0.9 * 0.75, 0.9 * 0.25)
    wanted[1, [7, 3]] += (0.9 * 0.75, 0.9 * 0.25)
    wanted[2:, 1] += 0.9
    np.testing.assert_allclose(mixed, wanted, rtol=1e-5)
    assert loss.mixed_targets(targets, None) is targets


def test_hits_count_the_weight_of_the_predicted_class():
    labels = tf.constant([3, 7, 1, 1])
    weight = tf.constant([0.75, 0.75, 0.5, 0.5])
    logits = tf.one_hot([3, 3, 1, 0], 10)
    hits = loss.hits(logits, labels, weight)
    np.testing.assert_allclose(hits, [0.75, 0.25, 1, 0])
    hits = loss.hits(logits, labels, None)
    np.testing.assert_array_equal(hits, [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("trainable_blocks", "filters"),
    [([], 0), (["block5"], 3), (["block5", "block4"], 6)],
)
def test_a_frozen_block_has_no_backward_pass(trainable_blocks, filters):
    network = vgg.vgg16(width=0.125, batch_norm=False)
    blocks = variables.variable_blocks(network)
    trained = [
        v
        for v, block in zip(network.trainable_variables, blocks, strict=True)
        if block in (*trainable_blocks, spec.HEAD)
    ]
    run = loss.make_forward_backward(
        network,
        resize_lib.make_resize(32, method="nearest"),
        trained,
        label_smoothing=0.0,
        global_batch_size=4,
        num_replicas=1,
    )
    graph = tf.function(run).get_concrete_function(
        Augmented(tf.TensorSpec([4, 32, 32, 3], tf.uint8), None),
        tf.TensorSpec([4], tf.int32),
        None,
        tf.TensorSpec([], tf.float32),
    )
    kinds = [op.type for op in graph.graph.get_operations()]
    assert kinds.count("Conv2D") == 13
    assert kinds.count("Conv2DBackpropFilter") == filters
    # The unused gradient of the lowest layer is pruned from the graph.
    assert kinds.count("Conv2DBackpropInput") <= filters
