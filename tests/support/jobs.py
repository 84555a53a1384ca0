"""Runs the job as a user would, and finds the data for tests."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def from_environment(name: str) -> pathlib.Path:
    """Returns the path that a variable names; skips the test without it."""
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set: no real data here")
    return pathlib.Path(value)


def run_job(
    *args: str, timeout: float = 240, **kwargs
) -> subprocess.CompletedProcess:
    """Runs the job as a user would, to its end."""
    return subprocess.run(
        job_command(*args),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **kwargs,
    )


def job_command(*args: str) -> list[str]:
    """Returns the command line of the job."""
    return [sys.executable, "-m", "job.main", *args]
