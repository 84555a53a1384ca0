"""Tests of the update: finite steps, frozen blocks, XLA."""

import numpy as np
import pytest
import tensorflow as tf

from job.model import spec, vgg
from job.training.loss import StepSums
from job.training.phases import Group
from job.training.state import TrainState
from job.training.update import OptimizerSettings, Update

ALL_BLOCKS = frozenset([*spec.BLOCK_NAMES, spec.HEAD])


def create(*, trainable_blocks=ALL_BLOCKS, loss_scaling=False, **changes):
    settings = {
        "name": "sgd",
        "learning_rate": lambda step: tf.constant(0.05),
        "groups": dict.fromkeys(ALL_BLOCKS, Group()),
        "muon_ratio": 0.0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.0,
        "ema_decay": 0.9,
        "clip_norm": 0.0,
        **changes,
    }
    state = TrainState(
        vgg.vgg16(width=0.125),
        averaging=True,
        loss_scaling=loss_scaling,
        adam=settings["name"] == "adam",
    )
    update = Update(
        state.model,
        OptimizerSettings(**settings),
        trainable_blocks=trainable_blocks,
    )
    return state, update


def create_sums(state, rng, *, finite=True):
    def draw(variables):
        return [
            tf.constant(rng.uniform(0.1, 1.0, v.shape), tf.float32)
            for v in variables
        ]

    gradients = draw(state.trainable)
    if not finite:
        gradients[0] *= np.inf
    return StepSums(
        gradients,
        draw(state.moving_statistics),
        tf.constant(2.0),
        tf.constant(5.0),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 1.0},
        {"name": "adam"},
        {"loss_scaling": True},
        {"muon_ratio": 0.1, "loss_scaling": True},
    ],
)
def test_xla_gives_the_same_update(changes):
    """Runs three steps, the second with a non-finite gradient."""
    state, update = create(**changes)
    start = state.snapshot()
    rng = np.random.default_rng(0)
    given = [
        create_sums(state, rng, finite=finite) for finite in (True, False, True)
    ]
    results = []
    for jit_compile in (False, True):
        state.restore(start)
        apply = tf.function(
            lambda sums: update(state.step, sums, state.replica_variables()),
            jit_compile=jit_compile,
            autograph=False,
        )
        for sums in given:
            apply(sums)
        results.append(state.snapshot())
    plain, compiled = results
    assert plain.keys() == compiled.keys()
    assert plain["step"] == compiled["step"] == 3
    for name in plain:
        np.testing.assert_allclose(
            plain[name], compiled[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_muon_updates_the_convolutions_and_sgd_the_rest():
    """Muon's first update does not depend on the scale of the gradient."""
    state, update = create(muon_ratio=0.1)
    start = state.snapshot()
    sums = create_sums(state, np.random.default_rng(0))
    results = []
    for scale in (1.0, 4.0):
        state.restore(start)
        scaled = sums._replace(gradients=[scale * g for g in sums.gradients])
        update(state.step, scaled, state.replica_variables())
        results.append([v.numpy() for v in state.trainable])
    for one, four, variable in zip(
        *results, state.model.trainable_variables, strict=True
    ):
        is_equal = np.allclose(one, four, atol=1e-5)
        assert is_equal == (len(variable.shape) == 4), variable.path


def test_only_trainable_blocks_change():
    state, update = create(trainable_blocks={"block5", spec.HEAD})
    before = state.snapshot()
    sums = create_sums(state, np.random.default_rng(0))
    trained = [
        gradient
        for gradient, variable in zip(
            sums.gradients, state.model.trainable_variables, strict=True
        )
        if variable.path.startswith(("block5", "logits"))
    ]
    sums = StepSums(trained, sums.statistics, sums.loss, sums.correct)
    update(state.step, sums, state.replica_variables())
    after = state.snapshot()
    for name in before:
        group, _, path = name.partition("/")
        if group in ("model", "momentum", "ema"):
            changes = path.startswith(("block5", "logits")) or "moving" in path
            equal = np.array_equal(before[name], after[name])
            assert equal != changes, name


def test_the_loss_scale_doubles_after_2000_good_steps():
    state, update = create(loss_scaling=True)
    state.loss_scale["good_steps"].assign(1998)
    rng = np.random.default_rng(0)
    start = float(state.loss_scale["scale"].numpy())
    scales = []
    for _ in range(3):
        update(state.step, create_sums(state, rng), state.replica_variables())
        scales.append(float(state.loss_scale["scale"].numpy()))
    assert scales == [start, 2 * start, 2 * start]
    assert state.loss_scale["good_steps"].numpy() == 1


def test_an_overflow_at_scale_1_is_a_bad_step():
    state, update = create(loss_scaling=True)
    state.loss_scale["scale"].assign(2.0)
    rng = np.random.default_rng(0)
    for bad_step in (-1, 1):
        sums = create_sums(state, rng, finite=False)
        update(state.step, sums, state.replica_variables())
        assert state.first_bad_step.numpy() == bad_step
        assert state.loss_scale["scale"].numpy() == 1.0
