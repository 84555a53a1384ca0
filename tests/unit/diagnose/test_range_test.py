"""The learning rate range test."""

import math

import numpy as np
import pytest

from job.diagnose import range_test
from tests.support.findings import assert_finding


def check_range(best, *, learned):
    """Checks a run at rate 0.1 whose loss falls fastest at `best`."""
    rates = np.geomspace(1e-3, 1e2, 30)
    pairs = [(float(rate), 2.3 if rate < best else 0.5) for rate in rates]
    return range_test.check_range(
        range_test.analyze(pairs, num_classes=10),
        rate=0.1,
        peak_learning_rate=0.4,
        learned=learned,
        images=32,
    )


@pytest.mark.parametrize(
    ("best", "direction"),
    [
        pytest.param(30.0, "low", id="too_low"),
        pytest.param(0.003, "high", id="too_high"),
    ],
)
def test_rate_at_which_nothing_is_learned_is_found(best, direction):
    found = check_range(best, learned=False)
    assert_finding(found, "learning_rate")
    assert f"too {direction}" in found.title
    assert check_range(best, learned=True) is None


def test_fastest_decrease_and_divergence_are_located():
    pairs = [(0.1, 2.3), (0.2, 2.0), (0.4, 1.0), (0.8, 0.5), (1.6, 60.0)]
    test = range_test.analyze(pairs, num_classes=10)
    assert test.best in (0.2, 0.4)
    assert test.breaks == 1.6
    diverged = range_test.analyze([(0.1, 2.3), (0.2, math.nan)], num_classes=10)
    assert diverged.breaks == 0.2
    constant = range_test.analyze([(0.1, 2.3), (0.2, 2.3)], num_classes=10)
    assert constant.best is None


def test_divergence_is_relative_to_the_loss_of_guessing():
    # The smoothed loss increases by 2.9: 2 ln 3 = 2.2, 2 ln 10 = 4.6.
    pairs = [(0.1, 1.0), (0.2, 6.0)]
    assert range_test.analyze(pairs, num_classes=3).breaks == 0.2
    assert range_test.analyze(pairs, num_classes=10).breaks is None


def test_training_ends_at_the_divergence():
    losses = iter([2.3, 2.0, math.nan])
    pairs = range_test.losses_by_rate(
        lambda rate: next(losses),
        rates=[0.1, 0.2, 0.4, 0.8],
        seconds=60,
        num_classes=10,
    )
    assert [rate for rate, _ in pairs] == [0.1, 0.2, 0.4]


def test_plot_is_a_png(tmp_path):
    path = tmp_path / "plot.png"
    test = range_test.analyze(
        [(0.1, 2.3), (0.2, 2.0), (0.4, 60.0)], num_classes=10
    )
    range_test.plot(test, path, rate=0.1, images=32, num_classes=10)
    assert path.read_bytes().startswith(b"\x89PNG")
