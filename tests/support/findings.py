"""Assertions about the findings of job/diagnose."""

from job.diagnose.finding import Finding


def assert_finding(found: Finding | None, check: str) -> None:
    """Asserts that a check found its mistake, and that a user can act on it."""
    assert found is not None
    assert found.check == check
    # The evidence is a number of this run.
    assert any(character.isdigit() for character in found.evidence)
    assert found.cost.source
    assert found.fix or found.flags
