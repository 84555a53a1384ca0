"""Findings of the checks, and reports of them as text and JSON.

    found = Finding("frozen_base", title, evidence, costs.frozen_base(32), fix)
    print(Report([found], passed, skipped, facts, seconds=31.0))

The module does not need TensorFlow.
"""

import dataclasses
import pathlib
import shlex
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

# Difference of two single runs that may be noise, in percentage points. It is
# twice the standard error, at a noise of 0.31 points per run (docs/results.md).
NOISE = 0.9

_WIDTH = 88

# Title, fix, source and rank of each mistake, by the name of its check.
MISTAKES: dict[str, dict[str, Any]] = tomllib.loads(
    pathlib.Path(__file__).with_name("mistakes.toml").read_text("utf-8")
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a mistake.

    Attributes:
      points: Lost test accuracy in percentage points. None if not measured.
      source: Source of the measured cost, or else of the mistake.
      rank: Estimated points, for the position among the findings. Used if the
        cost was not measured or is within noise, and never shown.
    """

    points: float | None
    source: str
    rank: float = 0.0

    @property
    def order(self) -> float:
        """Returns the points by which findings are ordered."""
        if self.points is None or self.points < NOISE:
            return self.rank
        return self.points

    def text(self) -> str:
        """Returns the cost as text."""
        if self.points is None:
            return f"not measured ({self.source})"
        if self.points == 0:
            return f"none ({self.source})"
        if self.points < NOISE:
            return f"within noise ({self.source})"
        return f"{self.points:.1f} points ({self.source})"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Mistake that a check found.

    Attributes:
      check: Name of the check.
      title: Mistake in a few words.
      evidence: Numbers of the run or model that show the mistake.
      cost: Cost of the mistake.
      fix: Change that fixes the mistake. Empty if the flags suffice.
      flags: Flags of the job that fix the mistake. Empty for a Keras model.
    """

    check: str
    title: str
    evidence: str
    cost: Cost
    fix: str = ""
    flags: tuple[str, ...] = ()


def mistake(
    check: str,
    evidence: str,
    *,
    title: str = "",
    cost: Cost | None = None,
    fix: str = "",
    flags: tuple[str, ...] = (),
) -> Finding:
    """Returns a finding, by default with the texts of mistakes.toml.

    Args:
      check: Name of the check, a table of the file.
      evidence: Numbers of the run or model that show the mistake.
      title: Title. If "", that of the file.
      cost: Cost. If None, that of the file.
      fix: Fix. If "", that of the file.
      flags: Flags of the job that replace the fix of the file.
    """
    entry = MISTAKES[check]
    return Finding(
        check,
        title or entry["title"],
        evidence,
        cost or Cost(None, entry["source"], entry["rank"]),
        fix or ("" if flags else entry["fix"]),
        flags,
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of all checks.

    Attributes:
      findings: Findings in the order of their costs, the largest first.
      passed: Names of the checks without a finding.
      skipped: Reason of each skipped check, by its name.
      facts: Other figures as text, by name.
      seconds: Duration of the diagnosis in seconds.
      summary: Sentence on the accuracy, or "".
      command: Command of a run with all fixes. Empty without flags.
    """

    findings: Sequence[Finding]
    passed: Sequence[str]
    skipped: dict[str, str]
    facts: dict[str, str]
    seconds: float
    summary: str = ""
    command: str = ""

    def __str__(self) -> str:
        """Returns the report as text for a terminal or a notebook."""
        return to_text(self)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the findings in the order of their costs, the largest first."""
    return sorted(findings, key=lambda found: found.cost.order, reverse=True)


def combine_flags(findings: Iterable[Finding]) -> list[str]:
    """Returns the flags of all findings, with the last value of each field.

    A later fix relies on earlier ones. For example, batch normalization permits
    a learning rate that is too high without it.

    Args:
      findings: Findings in the order of their costs.
    """
    flags: dict[str, str] = {}
    for found in findings:
        for flag in found.flags:
            flags[flag.partition("=")[0]] = flag
    return sorted(flags.values(), key=lambda f: not f.startswith("--config="))


def to_text(report: Report) -> str:
    """Returns the report as text for a terminal."""
    count = len(report.findings)
    title = f"{count or 'No'} finding{'' if count == 1 else 's'}"
    parts = [f"{title} in {report.seconds:.0f} s"]
    if report.summary:
        parts.append(_wrap(report.summary))
    for number, found in enumerate(report.findings, start=1):
        fix = found.fix or shlex.join(found.flags)
        parts.append(f"\nFinding {number}: {found.title} [{found.check}]")
        parts.append(_line("Evidence", found.evidence))
        parts.append(_line("Cost", found.cost.text()))
        parts.append(_line("Fix", fix))
    parts.append("")
    parts.extend(_wrap(f"{k}: {v}") for k, v in report.facts.items())
    if report.passed:
        parts.append(_wrap(f"Passed: {', '.join(report.passed)}"))
    if report.skipped:
        reasons: dict[str, list[str]] = {}
        for name, why in report.skipped.items():
            reasons.setdefault(why, []).append(name)
        listed = [f"{', '.join(who)} ({why})" for why, who in reasons.items()]
        parts.append(_wrap(f"Skipped: {'; '.join(listed)}"))
    if report.command:
        flags = {flag for found in report.findings for flag in found.flags}
        fields = {flag.partition("=")[0] for flag in flags}
        # As in `combine_flags`.
        is_ambiguous = len(fields) < len(flags)
        note = ", with the last value of each field" if is_ambiguous else ""
        parts.append(f"\nAll fixes{note}:\n  {report.command}")
    return "\n".join(parts)


def _line(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"  {name:<8}  ",
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _wrap(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def to_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON values.

    Returns:
      Dict with `summary`, `command`, `findings`, `passed`, `skipped`, `facts`
      and `seconds`. Each finding has `check`, `title`, `evidence`, `cost`
      (text), `cost_points` (None if not measured or within noise), `fix` and
      `flags`.
    """
    findings = [
        {
            "check": found.check,
            "title": found.title,
            "evidence": found.evidence,
            "cost": found.cost.text(),
            "cost_points": round(points, 2)
            if (points := found.cost.points or 0.0) >= NOISE
            else None,
            "fix": found.fix or shlex.join(found.flags),
            "flags": list(found.flags),
        }
        for found in report.findings
    ]
    return {
        "summary": report.summary,
        "command": report.command,
        "findings": findings,
        "passed": list(report.passed),
        "skipped": report.skipped,
        "facts": report.facts,
        "seconds": round(report.seconds, 1),
    }
