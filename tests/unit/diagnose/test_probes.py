"""Tests of the probes of one batch and their checks."""

import math

import pytest

from job.diagnose import probes
from tests.support.findings import assert_finding

FALLS = [2.3 - 0.25 * i for i in range(9)]
STAYS = [2.302, 2.31, 2.301] * 10
SLOW = [2.3 - 0.01 * i for i in range(probes.STEPS)]


def check_learning(losses, *, batch_norm=True, num_classes=10):
    return probes.check_learning(
        losses,
        batch_norm=batch_norm,
        rate=0.1,
        peak_learning_rate=0.4,
        images=32,
        num_classes=num_classes,
    )


@pytest.mark.parametrize(
    ("check", "losses"),
    [
        pytest.param("stuck_at_chance", STAYS, id="stuck"),
        pytest.param("overfit_one_batch", SLOW, id="slow"),
        pytest.param("overfit_one_batch", [2.3, 9.0, math.nan], id="diverged"),
    ],
)
def test_network_that_cannot_learn_one_batch_is_found(check, losses):
    assert_finding(check_learning(losses), check)


def test_network_that_learns_one_batch_passes():
    assert check_learning(FALLS) is None
    assert check_learning([2.3, 9.0, 0.05]) is None


def test_fix_is_a_rate_for_the_batch_of_the_run():
    diverged = check_learning([2.3, 9.0, math.nan])
    assert diverged.flags == ("--config.optimizer.peak_learning_rate=0.04",)


def test_fix_of_a_stuck_network_adds_batch_norm_where_it_lacks():
    flag = "--config.model.batch_norm=true"
    assert flag in check_learning(STAYS, batch_norm=False).flags
    assert flag not in check_learning(STAYS, batch_norm=True).flags


def test_probe_ends_when_its_time_is_over():
    def slow(rate):
        return 2.3

    assert len(probes.overfit(slow, rate=1, steps=40, seconds=-1.0)) == 1


def test_probe_ends_when_the_batch_is_memorized():
    losses = iter([2.3, 1.0, 0.01, 0.0])
    seen = probes.overfit(
        lambda rate: next(losses), rate=1, steps=4, seconds=60
    )
    assert seen == [2.3, 1.0, 0.01]
    assert probes.is_conclusive(seen, num_classes=10)


def test_decrease_of_the_loss_counts_only_if_it_lasts():
    def run(losses):
        values = iter(losses)
        return probes.fall(
            lambda rate: next(values),
            rate=1,
            steps=len(losses),
            seconds=60,
            num_classes=10,
        )

    assert run([2.3] * 10) == []
    assert run([2.3, 2.0, 2.3, 2.0, 2.3, 2.0, 2.3]) == []
    assert len(run([2.3] + [2.0] * 9)) == 6


def test_few_slow_steps_are_not_conclusive():
    assert probes.is_conclusive(STAYS[:10], num_classes=10)
    assert not probes.is_conclusive(SLOW[:20], num_classes=10)
    assert probes.is_conclusive(SLOW, num_classes=10)


def test_first_loss_far_from_chance_is_found():
    assert_finding(probes.check_first_loss(40.0, num_classes=10), "first_loss")
    assert probes.check_first_loss(2.35, num_classes=10) is None


def test_loss_of_guessing_is_that_of_the_number_of_classes():
    # ln 3 = 1.0986.
    losses = [1.1] * 30
    assert probes.is_conclusive(losses[:10], num_classes=3)
    found = check_learning(losses, num_classes=3)
    assert_finding(found, "stuck_at_chance")
    assert "stays at ln 3" in found.title
    assert "guessing gives ln 3 = 1.099" in found.evidence
    # Half of ln 10, but not of ln 3.
    assert check_learning([1.0] * 40, num_classes=10) is None
    found = check_learning([1.0] * 40, num_classes=3)
    assert_finding(found, "overfit_one_batch")
    assert probes.check_first_loss(5.0, num_classes=10) is None
    found = probes.check_first_loss(5.0, num_classes=3)
    assert "guessing gives ln 3 = 1.099" in found.evidence


def test_layer_of_dead_units_is_found():
    found = probes.check_dead_relus([("a", 0.1), ("b", 0.97)], 64)
    assert_finding(found, "dead_relus")
    assert probes.check_dead_relus([("a", 0.1), ("b", 0.6)], 64) is None
