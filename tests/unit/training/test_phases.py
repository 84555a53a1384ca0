"""Phases: when blocks open, at which rate, at what cost."""

import math

import pytest
import tensorflow as tf

from job.model import flops, spec
from job.model import vgg as model
from job.training import phases


def epochs(*values):
    """Of block1 to block5."""
    return dict(zip(spec.BLOCK_NAMES, values, strict=True))


def hundred(epoch):
    return round(100 * epoch)


def test_a_run_without_a_plan_is_one_phase():
    groups = phases.create_groups(
        epochs(0, 0, 0, 0, 0), layer_decay=1, warmup_epochs=1, steps=hundred
    )
    assert set(groups.values()) == {phases.Group()}
    (phase,) = phases.create_phases(groups, sizes=(), until=(), final_size=32)
    assert phase.open_blocks == {spec.HEAD, *spec.BLOCK_NAMES}


def test_blocks_open_and_sizes_grow_each_at_its_step():
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
        (p.first_step, p.input_size, len(p.open_blocks)) for p in found
    ] == [
        (0, 64, 1),
        (100, 64, 3),
        (150, 96, 3),
        (200, 128, 4),
        (300, 128, 5),
    ]
    assert "block1" not in found[-1].open_blocks


def test_a_blocks_rate_climbs_behind_its_opening_and_decays_with_depth():
    groups = phases.create_groups(
        epochs(3, 2, 2, 1, 0),
        layer_decay=0.5,
        warmup_epochs=0.1,
        steps=hundred,
    )

    def rate(block, step):
        return float(groups[block].rate(tf.constant(8.0), tf.constant(step)))

    assert rate(spec.HEAD, 0) == 8.0
    # Open from the start: the schedule's own warm-up is enough.
    assert rate("block5", 0) == 4.0
    assert rate("block4", 100) == pytest.approx(2.0 / 10)
    assert rate("block4", 104) == pytest.approx(2.0 / 2)
    assert rate("block4", 109) == rate("block4", 500) == 2.0
    assert rate("block1", 900) == 8.0 / 2**5


def test_cost_is_that_of_the_published_network():
    # chenyaofo/pytorch-cifar-models counts 313.73 million multiplications and
    # additions, of which 0.28 million are batch normalization's.
    network = model.vgg16()
    forward, trained = phases.gflop(
        network,
        phases.Phase(0, 32, frozenset([spec.HEAD, *spec.BLOCK_NAMES])),
    )
    assert forward == pytest.approx(2 * 0.31373, rel=2e-3)
    assert trained == pytest.approx(3 * forward)
    larger, frozen = phases.gflop(
        network, phases.Phase(0, 128, frozenset([spec.HEAD]))
    )
    assert larger == pytest.approx(16 * forward, rel=1e-3)
    assert frozen == pytest.approx(larger, rel=1e-3)


def test_the_cost_of_a_training_adds_its_phases_up():
    network = model.vgg16(width=0.125)
    everything = frozenset([spec.HEAD, *spec.BLOCK_NAMES])
    small = phases.Phase(0, 32, everything)
    large = phases.Phase(30, 64, everything)

    def cost(plan, steps):
        return phases.train_tflop(
            network, plan, train_steps=steps, global_batch_size=10
        )

    unit = phases.gflop(network, small)[1] / 100
    assert cost((small,), 40) == pytest.approx(40 * unit)
    assert cost((small, large), 40) == pytest.approx(70 * unit, rel=1e-2)
    assert cost((small, large), 20) == pytest.approx(20 * unit)


def test_features_cost_the_base_once():
    network = model.vgg16(width=0.125)
    frozen = phases.Phase(0, 64, frozenset([spec.HEAD]))

    def cost(steps):
        return phases.train_tflop(
            network,
            (frozen,),
            train_steps=steps,
            global_batch_size=10,
            extracted=500,
        )

    once = 500 * sum(flops.gflop(network, 64).values()) / 1e3
    head = flops.gflop(network, 64)[spec.HEAD]
    assert cost(0) == pytest.approx(once)
    assert cost(100) == pytest.approx(once + 3 * 100 * 10 * head / 1e3)
