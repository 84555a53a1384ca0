"""Tests of the cost of a probe."""

from job.diagnose import budget


def test_larger_images_are_fewer():
    assert budget.num_images(32, 32**2) == 32
    assert budget.num_images(32, 64**2) == 8
    assert budget.num_images(32, 224**2, at_least=8) == 8
    assert budget.num_images(1, 224**2) == 1


def test_clock_never_decreases():
    first = budget.clock()
    assert 0 <= first <= budget.clock()
