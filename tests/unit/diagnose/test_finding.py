"""Reports as text and JSON."""

import json

import pytest

from job.diagnose import finding


def test_report_lists_findings_in_the_order_of_their_costs():
    found = [
        finding.Finding(name, name, "1", finding.Cost(points, "s"), ("m",))
        for name, points in (("small", 0.3), ("none", None), ("large", 60.0))
    ]
    report = finding.Report(
        finding.in_order(found), ["x"], {"y": "no time"}, {"z": "5"}, 3.0
    )
    assert [f.check for f in report.findings] == ["large", "small", "none"]
    text = finding.to_text(report)
    for part in ("3 findings", "60.0 points", "not measured by us", "no time"):
        assert part in text
    content = finding.to_json(report)
    points = [entry["loss_points"] for entry in content["findings"]]
    assert points == [60.0, 0.3, None]
    json.dumps(content)


@pytest.mark.parametrize(
    ("count", "text"), [(3, "three"), (10, "ten"), (11, "11"), (1000, "1,000")]
)
def test_counts_up_to_ten_are_words(count, text):
    assert finding.number_word(count) == text
