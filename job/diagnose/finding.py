"""Findings of the checks, and reports of them as text and JSON.

    found = Finding("frozen_base", title, evidence, costs.FROZEN_AT_32, remedy)
    print(to_text(Report([found], passed, skipped, facts, seconds=31.0)))

Needs no TensorFlow.
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_WIDTH = 88

_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a mistake.

    Attributes:
      points: Test accuracy lost, in percentage points. None if no figure is
        known.
      source: Source of the figure, or of the mistake if there is none.
      measured: Whether this project measured the figure.
      rank: Estimated points, for the order of findings without a figure. It is
        never shown.
    """

    points: float | None
    source: str
    measured: bool = True
    rank: float = 0.0

    def text(self) -> str:
        """Returns the figure as text."""
        if self.points is None:
            return "not measured by us"
        if not self.points:
            return "no accuracy, but time"
        points = f"{self.points:.1f} points"
        return points if self.measured else f"{points}; not measured by us"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A mistake that a check found.

    Attributes:
      check: Name of the check.
      title: Mistake in a few words.
      evidence: Number of this run that shows the mistake.
      cost: Cost of the mistake.
      remedy: Flags or lines of code that fix it.
    """

    check: str
    title: str
    evidence: str
    cost: Cost
    remedy: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of all checks.

    Attributes:
      findings: Findings in the order of their costs, the largest first.
      passed: Names of the checks that found nothing.
      skipped: Reason by name of each skipped check.
      facts: Figures that are not mistakes, text by name.
      seconds: Duration of the diagnosis in seconds.
    """

    findings: Sequence[Finding]
    passed: Sequence[str]
    skipped: dict[str, str]
    facts: dict[str, str]
    seconds: float


def number_word(count: int) -> str:
    """Returns a count as texts write it: a word up to ten, digits above it."""
    return _NUMBER_WORDS[count] if count < len(_NUMBER_WORDS) else f"{count:,}"


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the findings in the order of their costs, the largest first."""

    def points(found: Finding) -> float:
        cost = found.cost
        return cost.rank if cost.points is None else cost.points

    return sorted(findings, key=points, reverse=True)


def to_text(report: Report) -> str:
    """Returns the report as text for a terminal."""
    count = len(report.findings)
    title = f"{count or 'no'} finding{'' if count == 1 else 's'}"
    parts = [f"{title}, {report.seconds:.0f} s"]
    for number, found in enumerate(report.findings, start=1):
        parts.append(f"\n{number}. {found.title} [{found.check}]")
        parts.append(_line("evidence", found.evidence))
        parts.append(
            _line("costs", f"{found.cost.text()} ({found.cost.source})")
        )
        parts.extend(_line("fix", flag) for flag in found.remedy)
    parts.append("")
    parts.extend(_wrap(f"{k}: {v}") for k, v in report.facts.items())
    if report.passed:
        parts.append(_wrap(f"nothing found by: {', '.join(report.passed)}"))
    parts.extend(
        _wrap(f"not checked: {name}: {why}")
        for name, why in report.skipped.items()
    )
    return "\n".join(parts)


def _line(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"   {name:<9} ",
        subsequent_indent=" " * 13,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _wrap(text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False
    )


def to_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON values."""
    findings = []
    for found in report.findings:
        entry = dataclasses.asdict(found)
        cost = entry.pop("cost")
        findings.append(
            {
                **entry,
                "loss_points": cost["points"],
                "measured_by_us": cost["measured"]
                and cost["points"] is not None,
                "source": cost["source"],
            }
        )
    return {
        "findings": findings,
        "nothing_found_by": list(report.passed),
        "not_checked": report.skipped,
        "facts": report.facts,
        "seconds": round(report.seconds, 1),
    }
