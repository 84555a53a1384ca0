"""Tests of phases, their learning rates and their cost."""

import math

import pytest
import tensorflow as tf

from job.model import flops, spec, vgg
from job.training import phases


def epochs(*values):
    """Returns the epochs of block1 to block5, by name."""
    return dict(zip(spec.BLOCK_NAMES, values, strict=True))


def hundred(epoch):
    return round(100 * epoch)


def test_a_run_without_a_plan_is_one_phase():
    groups = phases.create_groups(
        epochs(0, 0, 0, 0, 0), layer_decay=1, warmup_epochs=1, steps=hundred
    )
    assert set(groups.values()) == {phases.Group()}
    (phase,) = phases.create_phases(groups, sizes=(), until=(), final_size=32)
    assert phase.trainable_blocks == {spec.HEAD, *spec.BLOCK_NAMES}


def test_blocks_unfreeze_and_sizes_grow_at_their_steps():
    groups = phases.create_groups(
        epochs(math.inf, 3, 2, 1, 1),
        layer_decay=0.5,
        warmup_epochs=0.1,
        steps=hundred,
    )
    found = phases.create_phases(
        groups, sizes=(64, 96), until=(150, 200), final_size=128
    )
    assert [
        (p.first_step, p.input_size, len(p.trainable_blocks)) for p in found
    ] == [
        (0, 64, 1),
        (100, 64, 3),
        (150, 96, 3),
        (200, 128, 4),
        (300, 128, 5),
    ]
    assert "block1" not in found[-1].trainable_blocks


def test_a_blocks_learning_rate_warms_up_after_it_unfreezes():
    groups = phases.create_groups(
        epochs(3, 2, 2, 1, 0),
        layer_decay=0.5,
        warmup_epochs=0.1,
        steps=hundred,
    )

    def rate(block, step):
        return float(
            groups[block].learning_rate(tf.constant(8.0), tf.constant(step))
        )

    assert rate(spec.HEAD, 0) == 8.0
    # A block that trains from the start has the warm-up of the schedule.
    assert rate("block5", 0) == 4.0
    assert rate("block4", 100) == pytest.approx(2.0 / 10)
    assert rate("block4", 104) == pytest.approx(2.0 / 2)
    assert rate("block4", 109) == rate("block4", 500) == 2.0
    assert rate("block1", 900) == 8.0 / 2**5


def test_steps_are_counted_by_phase():
    found = phases.create_phases(
        {}, sizes=(24, 28), until=(10, 30), final_size=32
    )
    for train_steps, wanted in (
        (40, [10, 20, 10]),
        (20, [10, 10, 0]),
        (5, [5, 0, 0]),
    ):
        counted = [*phases.phase_steps(found, train_steps)]
        assert [steps for steps, _ in counted] == wanted
        assert [phase.input_size for _, phase in counted] == [24, 28, 32]


def test_the_cost_of_a_training_is_the_sum_of_its_phases():
    network = vgg.vgg16(width=0.125)
    blocks = frozenset([*spec.BLOCK_NAMES, spec.HEAD])
    small, large = (
        flops.image_gflop(network, size, blocks).train for size in (32, 64)
    )
    found = phases.train_tflop(
        network,
        [
            phases.Phase(0, 32, blocks),
            phases.Phase(30, 64, blocks),
            phases.Phase(50, 96, blocks),
        ],
        train_steps=40,
        global_batch_size=10,
    )
    assert found == pytest.approx((300 * small + 100 * large) / 1e3)


def test_features_cost_the_base_once():
    network = vgg.vgg16(width=0.125)

    def cost(steps):
        return phases.train_tflop(
            network,
            [phases.Phase(0, 64, frozenset([spec.HEAD]))],
            train_steps=steps,
            global_batch_size=10,
            num_features=500,
        )

    by_block = flops.forward_gflop_by_block(network, 64)
    once = 500 * sum(by_block.values()) / 1e3
    assert cost(0) == pytest.approx(once)
    assert cost(100) == pytest.approx(once + 3 * 1000 * by_block["head"] / 1e3)
