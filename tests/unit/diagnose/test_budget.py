"""Tests of the cost of a probe."""

from job.diagnose import budget


def test_clock_does_not_go_back():
    first = budget.clock()
    assert 0 <= first <= budget.clock()
