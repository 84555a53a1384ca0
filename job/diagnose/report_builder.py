"""Collection of findings into a report within a time budget.

    builder = ReportBuilder(stop.check, seconds=80.0)
    builder.add("labels", check_labels(labels))
    builder.report()

The budget covers all probes together; see `budget.clock`.
"""

import shlex
import time
from collections.abc import Callable, Sequence

from job.diagnose import budget, finding
from job.diagnose.finding import Finding, Report

# Time limit of one probe in seconds.
_PROBE_SECONDS = 35.0


class ReportBuilder:
    """Collector of findings, facts and skipped checks.

    Attributes:
      facts: Other figures as text, by name.
      summary: Sentence on the accuracy, or "".
    """

    def __init__(self, poll: Callable[[], None], *, seconds: float) -> None:
        """Starts the time budget.

        Args:
          poll: Function that raises an exception if the process should stop.
            Called after each check.
          seconds: Time limit of all probes together, in seconds of
            `budget.clock`.
        """
        self.facts: dict[str, str] = {}
        self.summary = ""
        self._start = time.perf_counter()
        self._end = budget.clock() + seconds
        self.poll = poll
        self._found: dict[str, Finding | None] = {}
        self._skipped: dict[str, str] = {}

    def add(self, name: str, found: Finding | None) -> None:
        """Adds the result of a check.

        If a check is added twice, its first finding is kept.

        Args:
          name: Name of the check.
          found: Finding of the check, or None.
        """
        self.poll()
        self._skipped.pop(name, None)
        self._found[name] = self._found.get(name) or found

    def skip(self, reason: str, *names: str) -> None:
        """Records skipped checks, unless they have been added.

        Args:
          reason: Reason in a few words.
          *names: Names of the checks.
        """
        for name in names:
            if name not in self._found:
                self._skipped[name] = reason

    def drop(self, *names: str, where: str) -> None:
        """Removes findings that another finding explains.

        Args:
          *names: Names of the checks whose findings are removed.
          where: Name of the check of the other finding.
        """
        for name in names:
            if self._found.get(where) and self._found.get(name):
                del self._found[name]

    def has_findings(self) -> bool:
        """Returns whether any check has a finding."""
        return any(self._found.values())

    def found(self, name: str) -> bool | None:
        """Returns whether a check has a finding, or None if not added."""
        return bool(self._found[name]) if name in self._found else None

    def remaining_seconds(self) -> float:
        """Returns the time limit of the next probe in seconds."""
        return min(_PROBE_SECONDS, max(0.0, self._end - budget.clock()))

    def report(self, command: Sequence[str] = ()) -> Report:
        """Returns the report, with the findings in the order of their costs.

        Args:
          command: Arguments of a command, to which all flags are added.
        """
        findings = finding.in_order(f for f in self._found.values() if f)
        flags = finding.combine_flags(findings)
        changed = {flag.partition("=")[0] for flag in flags}
        kept = [a for a in command if a.partition("=")[0] not in changed]
        return Report(
            findings=findings,
            passed=[name for name, found in self._found.items() if not found],
            skipped=self._skipped,
            facts=self.facts,
            seconds=time.perf_counter() - self._start,
            summary=self.summary,
            command=shlex.join([*kept, *flags]) if kept and flags else "",
        )
