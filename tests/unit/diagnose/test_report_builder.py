"""Tests of the collection of findings into a report."""

import dataclasses

import pytest

from job.diagnose import finding
from job.diagnose.report_builder import ReportBuilder

FOUND = finding.Finding(
    "a", "title", "1", finding.Cost(1.0, "s"), flags=("--config.x=1",)
)


@pytest.fixture
def builder():
    return ReportBuilder(lambda: None, seconds=60.0)


def test_finding_replaces_none_of_the_same_check(builder):
    for found in (None, FOUND, None):
        builder.add("a", found)
    assert builder.found("a")
    assert list(builder.report().findings) == [FOUND]


def test_command_has_all_fixes_and_one_config(builder):
    builder.add("a", FOUND)
    given = ["python", "--config=a.py", "--config.x=2", "--workdir=b"]
    command = builder.report(given).command
    assert command == "python --config=a.py --workdir=b --config.x=1"
    flags = ("--config=c.py", "--config.y=()")
    builder.add("b", dataclasses.replace(FOUND, check="b", flags=flags))
    command = builder.report(given).command
    assert command.startswith("python --workdir=b --config=c.py")
    assert "'--config.y=()'" in command


def test_check_is_skipped_only_if_it_was_not_added(builder):
    builder.skip("no time", "a", "b")
    builder.add("a", None)
    builder.skip("no time", "a")
    report = builder.report()
    assert list(report.passed) == ["a"]
    assert report.skipped == {"b": "no time"}
    assert builder.found("b") is None


def test_finding_is_dropped_only_if_another_was_found(builder):
    builder.add("a", FOUND)
    builder.drop("a", where="b")
    assert builder.found("a")
    builder.add("b", FOUND)
    builder.drop("a", where="b")
    assert builder.found("a") is None


def test_stop_request_is_polled_by_each_check():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ReportBuilder(stop, seconds=60.0).add("a", None)


def test_spent_budget_leaves_no_seconds():
    assert ReportBuilder(lambda: None, seconds=0.0).remaining_seconds() == 0.0
