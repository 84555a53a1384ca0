"""What a check returns, and how people and programs are told.

found = Finding("frozen_base", what, evidence, costs.FROZEN_AT_32, remedies)
print(to_text(Report([found], passed, skipped, facts, seconds=31.0)))
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_WIDTH = 88


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a mistake costs.

    Attributes:
      points: of test accuracy, in %; None: nobody has a figure.
      source: where the figure stands, or where the mistake is known from.
      measured: by this project; else the figure is somebody else's.
      rank: where there is no figure, the points as which it is sorted in; a
        judgement, and never shown.
    """

    points: float | None
    source: str
    measured: bool = True
    rank: float = 0.0

    def text(self) -> str:
        """Returns the figure for a person."""
        if self.points is None:
            return "not measured by us"
        if not self.points:
            return "no accuracy, but time"
        points = f"{self.points:.1f} points"
        return points if self.measured else f"{points}; not measured by us"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A mistake that was found.

    Attributes:
      check: name of the check.
      title: what is wrong, in a few words.
      evidence: a number of this run that shows it.
      cost: what it costs.
      remedy: flags, or lines of code, that mend it.
    """

    check: str
    title: str
    evidence: str
    cost: Cost
    remedy: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What all checks said.

    Attributes:
      findings: in order of what they cost.
      passed: names of the checks that looked and found nothing.
      skipped: name of a check that did not look -> why.
      facts: figures worth knowing that are no mistakes, name -> text.
      seconds: it took.
    """

    findings: Sequence[Finding]
    passed: Sequence[str]
    skipped: dict[str, str]
    facts: dict[str, str]
    seconds: float


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sorts by cost, the largest first."""

    def points(found: Finding) -> float:
        cost = found.cost
        return cost.rank if cost.points is None else cost.points

    return sorted(findings, key=points, reverse=True)


def to_text(report: Report) -> str:
    """Returns the report for a person."""
    count = len(report.findings)
    title = f"{count or 'no'} finding{'' if count == 1 else 's'}"
    parts = [f"{title}, {report.seconds:.0f} s"]
    for place, found in enumerate(report.findings, start=1):
        parts.append(f"\n{place}. {found.title} [{found.check}]")
        parts.append(_line("evidence", found.evidence))
        parts.append(
            _line("costs", f"{found.cost.text()} ({found.cost.source})")
        )
        parts.extend(_line("mend", flag) for flag in found.remedy)
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
    """Returns the report as JSON's values."""
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
