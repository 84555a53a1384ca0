"""Tests of checks of a recipe, in addition to test_from_config."""

import pytest

from job.diagnose import recipe


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


def test_rule_is_lower_without_batch_norm_and_for_pretrained_weights():
    def rule(optimizer, **network):
        return recipe.rule_of_thumb(
            optimizer=optimizer, global_batch_size=128, **network
        )

    assert rule("adam", batch_norm=False) == 3e-4
    assert rule("adam", pretrained=True) == 1e-4
    assert rule("sgd", batch_norm=False) == pytest.approx(0.04)


@pytest.mark.parametrize(("usual", "fix"), [(3e-4, "0.0003"), (2e-3, "0.0001")])
def test_rate_that_learns_is_replaced_by_the_usual_one_in_between(usual, fix):
    found = recipe.wrong_rate(
        [2.3, 2.0],
        factor=0.1,
        peak_learning_rate=1e-3,
        batch_norm=False,
        optimizer="adam",
        usual=usual,
    )
    assert found.flags == (f"--config.optimizer.peak_learning_rate={fix}",)


def test_fix_of_heavy_augmentation_turns_it_off():
    flags = recipe.light_augmentation(["mixup_alpha=1", "translate=9"])
    assert "--config.augment.mixup_alpha=0" in flags
    assert "--config.augment.translate=2" in flags
    assert "--config.augment.translate=0" not in flags
