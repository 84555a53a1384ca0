"""Tests of the interpreter's packages and of its name in commands."""

import pathlib
import subprocess
import sys

import pytest

from job.supervision import interpreter
from tests.support.jobs import ROOT


@pytest.mark.parametrize("module", ["job", "job.main"])
def test_a_python_without_the_packages_ends_with_2_in_one_line(module):
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "--config=smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup error: the packages are not installed in ")
    assert "Fix: use .venv/bin/python" in line


@pytest.mark.parametrize(
    ("executable", "command"),
    [
        ("{folder}/.venv/bin/python", ".venv/bin/python"),
        ("{folder}x/.venv/bin/python", "python"),
        ("/usr/bin/python3", "python"),
        ("", "python"),
    ],
)
def test_the_command_can_be_pasted(tmp_path, monkeypatch, executable, command):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path.cwd()
    monkeypatch.setattr(sys, "executable", executable.format(folder=folder))
    assert interpreter.command() == command
