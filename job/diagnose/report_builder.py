"""Collection of findings into a report, within a budget of time.

    builder = ReportBuilder(stop.check, seconds=80.0)
    builder.add("labels", check_labels(labels))
    builder.report()

The budget covers all probes together; see `budget.clock`.
"""

import time
from collections.abc import Callable

from job.diagnose import budget, finding
from job.diagnose.finding import Finding, Report

# Seconds of one probe, at most.
_PROBE_SECONDS = 35.0


class ReportBuilder:
    """Collects findings, facts and skipped checks.

    Attributes:
      facts: Figures that are not mistakes, text by name.
    """

    def __init__(self, poll: Callable[[], None], *, seconds: float) -> None:
        """Starts the budget.

        Args:
          poll: Function that raises if the process should stop. It is called
            after each check.
          seconds: Seconds of all probes together, by `budget.clock`.
        """
        self.facts: dict[str, str] = {}
        self._start = time.perf_counter()
        self._end = budget.clock() + seconds
        self._poll = poll
        self._found: dict[str, Finding | None] = {}
        self._skipped: dict[str, str] = {}

    def add(self, name: str, found: Finding | None) -> None:
        """Adds the result of a check.

        A check may be added twice. Then a finding replaces None.

        Args:
          name: Name of the check.
          found: Finding of the check. None if it found nothing.
        """
        self._poll()
        self._skipped.pop(name, None)
        if found or name not in self._found:
            self._found[name] = found

    def skip(self, reason: str, *names: str) -> None:
        """Notes why checks were skipped, unless they have been added."""
        for name in names:
            if name not in self._found:
                self._skipped[name] = reason

    def drop(self, name: str, *, where: str) -> None:
        """Removes a finding that another finding explains.

        Args:
          name: Name of the check whose finding is removed.
          where: Name of the check that must have a finding.
        """
        if self._found.get(where) and self._found.get(name):
            del self._found[name]

    def found(self, name: str) -> bool | None:
        """Returns whether a check has a finding; None if it was not added."""
        return bool(self._found[name]) if name in self._found else None

    def remaining_seconds(self) -> float:
        """Returns the budget of the next probe, by `budget.clock`."""
        return min(_PROBE_SECONDS, max(0.0, self._end - budget.clock()))

    def report(self) -> Report:
        """Returns the report, findings in the order of their costs."""
        findings = [found for found in self._found.values() if found]
        return Report(
            findings=finding.in_order(findings),
            passed=[name for name, found in self._found.items() if not found],
            skipped=self._skipped,
            facts=self.facts,
            seconds=time.perf_counter() - self._start,
        )
