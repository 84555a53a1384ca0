"""Tests of scores against NumPy, with an incomplete last batch."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from job.model import vgg
from job.training import evaluate


def test_scores_equal_numpy_over_every_image_once(split):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        scored = vgg.vgg16(width=0.125)
    network = vgg.vgg16(width=0.125, seed=1)
    rng = np.random.default_rng(0)
    for variable in network.variables:  # They differ from initial ones.
        noise = rng.normal(size=variable.shape, scale=0.2)
        variable.assign(np.abs(variable.numpy() + noise))
    weights = network.trainable_variables + network.non_trainable_variables
    scores = evaluate.Evaluator(
        strategy, split, scored, tf.identity, global_batch_size=64
    )([v.value for v in weights], tta=True)

    def logits(images):
        return network(images, training=False)[0].numpy().astype(np.float64)

    plain, mirrored = logits(split.images), logits(split.images[:, :, ::-1])
    shifted = plain - plain.max(1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(1))
    loss = (log_sum - shifted[np.arange(100), split.labels]).mean()
    right = (plain.argmax(1) == split.labels).mean()
    both = ((plain + mirrored).argmax(1) == split.labels).mean()
    np.testing.assert_allclose(scores.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(scores.accuracy, right, atol=1e-6)
    np.testing.assert_allclose(scores.accuracy_tta, both, atol=1e-6)
    assert scores.images == 100
    np.testing.assert_allclose(scores.logits, plain, rtol=1e-3, atol=1e-3)
    assert np.abs(plain - mirrored).max() > 1e-3, "mirroring changes nothing"


def test_evaluation_can_end_between_batches(split):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        scored = vgg.vgg16(width=0.125)
    network = vgg.vgg16(width=0.125, seed=1)
    traces = []

    def resize(images):
        traces.append(images.shape)
        return images

    evaluator = evaluate.Evaluator(
        strategy, split, scored, resize, global_batch_size=16
    )
    weights = [
        v.value
        for v in network.trainable_variables + network.non_trainable_variables
    ]
    whole = evaluator(weights)
    traced = len(traces)
    polls = []

    def leave():
        polls.append(1)
        if len(polls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(weights, poll=leave)
    # The next evaluation begins with the first image.
    assert evaluator(weights) == whole
    assert len(traces) == traced > 0, "it is compiled once"


def test_the_classes_are_those_of_the_network(split):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        network = vgg.vgg16(width=0.125, num_classes=3)
    weights = network.trainable_variables + network.non_trainable_variables
    three = dataclasses.replace(split, labels=split.labels % 3)
    evaluator = evaluate.Evaluator(
        strategy, three, network, tf.identity, global_batch_size=64
    )
    scores = evaluator([v.value for v in weights])
    assert scores.logits.shape == (100, 3)
    assert 0 < scores.accuracy < 1
