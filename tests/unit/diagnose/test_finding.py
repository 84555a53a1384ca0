"""Tests of reports as text and JSON."""

import json

from job.diagnose import finding


def test_report_lists_findings_in_the_order_of_their_costs():
    found = [
        finding.Finding(name, name, "1", finding.Cost(points, "s"), "m")
        for name, points in (("none", None), ("noise", 0.3), ("large", 60.0))
    ]
    report = finding.Report(
        finding.in_order(found),
        ["x"],
        {"y": "no time"},
        {"z": "5"},
        3.0,
        command="python --config.x=1",
    )
    assert [f.check for f in report.findings] == ["large", "none", "noise"]
    text = finding.to_text(report)
    for part in (
        "3 findings",
        "60.0 points",
        "within noise",
        "Passed: x",
        "y (no time)",
    ):
        assert part in text
    assert text.endswith("\nAll fixes:\n  python --config.x=1")
    content = finding.to_json(report)
    points = [entry["cost_points"] for entry in content["findings"]]
    assert points == [60.0, None, None]
    json.dumps(content)


def test_last_finding_decides_on_a_field_and_a_config_comes_first():
    cost = finding.Cost(None, "s")
    found = [
        finding.Finding("a", "a", "1", cost, flags=("--config.x=1",)),
        finding.Finding("b", "b", "1", cost, flags=("--config.x=2",)),
        finding.Finding("c", "c", "1", cost, flags=("--config=b.py",)),
    ]
    assert finding.combine_flags(found) == ["--config=b.py", "--config.x=2"]
