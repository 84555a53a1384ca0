"""Tests of the plan, its steps and its actions."""

import math

import pytest

from job.model import spec
from job.training.plan import create_plan


def create(**changes):
    """Returns a plan of 2 epochs of 10 steps, with every interval set."""
    fields = {
        "num_images": 100,
        "global_batch_size": 10,
        "epochs": 2.0,
        "steps": 0,
        "peak_learning_rate": 0.4,
        "schedule": "linear",
        "warmup_epochs": 0.5,
        "unfreeze_epochs": dict.fromkeys(spec.BLOCK_NAMES, 0.0),
        "layer_decay": 1.0,
        "unfreeze_warmup_epochs": 0.0,
        "input_size": 32,
        "progressive_sizes": (),
        "progressive_epochs": (),
        "log_every_steps": 4,
        "evaluate_every_epochs": 0.5,
        "checkpoint_every_steps": 7,
        "steps_per_call": 0,
        **changes,
    }
    return create_plan(**fields)


def test_epochs_become_steps():
    plan = create()
    assert plan.train_steps == 20
    assert plan.evaluate_every_steps == 5
    assert plan.epoch(5) == 0.5
    assert float(plan.learning_rate(4)) == pytest.approx(0.4)
    assert create(steps=3).train_steps == 3
    # An interval has at least one step.
    assert create(epochs=0.01).train_steps == 1


def test_call_ends_when_an_action_is_due():
    plan = create(progressive_sizes=(24,), progressive_epochs=(1.1,))
    found, done = [], 0
    while done < plan.train_steps:
        done += plan.steps_to_boundary(done)
        found.append(done)
    assert found == [4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 20]
    assert plan.phase(10).input_size == 24
    assert plan.phase(11).input_size == 32


def test_all_actions_are_due_at_the_end():
    plan = create(evaluate_every_epochs=0.0)
    due = [s for s in range(21) if plan.due(plan.evaluate_every_steps, s)]
    assert due == [20]
    due = [s for s in range(1, 21) if plan.due(plan.log_every_steps, s)]
    assert due == [4, 8, 12, 16, 20]


def test_checkpoints_without_an_interval_have_a_minimum_time():
    assert create().checkpoint_seconds == 0.0
    plan = create(checkpoint_every_steps=0)
    assert plan.checkpoint_every_steps == 10
    assert plan.checkpoint_seconds > 0


def test_block_that_unfreezes_later_begins_a_phase():
    epochs = dict.fromkeys(spec.BLOCK_NAMES, 0.0)
    epochs |= {"block1": math.inf, "block2": 1.0}
    plan = create(unfreeze_epochs=epochs)
    assert [phase.first_step for phase in plan.phases] == [0, 10]
    assert "block2" not in plan.phase(9).trainable_blocks
    assert "block2" in plan.phase(10).trainable_blocks
    assert "block1" not in plan.phase(19).trainable_blocks
