"""Checks of a training recipe, beyond those in test_from_config."""

import pytest

from job.diagnose import recipe
from tests.support.findings import assert_finding


def test_float16_needs_loss_scaling():
    found = recipe.check_loss_scaling(precision="float16", scaled=False)
    assert_finding(found, "loss_scaling")
    assert not recipe.check_loss_scaling(precision="float16", scaled=True)
    assert not recipe.check_loss_scaling(precision="bfloat16", scaled=False)


def test_momentum_amplifies_coupled_decay_only():
    step = {"learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
    coupled = recipe.decay_per_step(optimizer="sgd", **step)
    assert coupled == pytest.approx(5e-4)
    decoupled = recipe.decay_per_step(optimizer="adam", **step)
    assert decoupled == pytest.approx(5e-5)


def test_usual_rate_is_linear_in_the_batch_for_sgd_only():
    for batch, rate in ((128, 0.1), (512, 0.4)):
        assert rate == recipe.rule_of_thumb(
            optimizer="sgd", global_batch_size=batch
        )
        assert (
            recipe.rule_of_thumb(optimizer="adam", global_batch_size=batch)
            == 1e-3
        )
