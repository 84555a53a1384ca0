"""The first hour on a GPU: its commands and its report, without a GPU."""

import json
import subprocess
import sys

import pytest

from benchmarks import first_hour
from tests.support.jobs import ROOT


def run(monkeypatch, folder, stage, commands):
    """Runs a stage of given commands; returns whether it passed."""
    monkeypatch.setattr(
        first_hour.Hour, "_commands", lambda self, stage: iter(commands)
    )
    arguments = ["first_hour", "--rehearse", f"--stage={stage}"]
    monkeypatch.setattr(sys, "argv", [*arguments, f"--output={folder}"])
    return first_hour.main() == 0


def python(code):
    return [sys.executable, "-c", code]


def test_each_stage_adds_to_one_report(monkeypatch, tmp_path):
    assert run(
        monkeypatch, tmp_path, "train", [("say", python("print(41 + 1)"), None)]
    )
    failing = [
        ("fail", python("raise SystemExit(69)"), None),
        ("never", python("print('unreached')"), None),
    ]
    assert not run(monkeypatch, tmp_path, "checks", failing)
    report = json.loads((tmp_path / "first-hour.json").read_text())
    assert report["train"]["commands"][0]["output"] == "42"
    assert [c["exit_code"] for c in report["checks"]["commands"]] == [69]
    page = (tmp_path / "first-hour.md").read_text()
    for line in ("train: passed", "checks: FAILED", "resume: not run", "42"):
        assert line in page
    assert "unreached" not in page


def test_a_command_is_killed_at_its_first_checkpoint(monkeypatch, tmp_path):
    save = (
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'step-1.safetensors').touch()\n"
        "time.sleep(60)"
    )
    assert run(
        monkeypatch, tmp_path, "train", [("kill", python(save), tmp_path)]
    )


def test_a_stage_ends_at_its_time_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(first_hour, "_STAGE_SECONDS", 1.0)
    sleep = [("sleep", python("import time; time.sleep(60)"), None)]
    assert not run(monkeypatch, tmp_path, "train", sleep)


def test_an_absent_program_fails(monkeypatch, tmp_path):
    absent = [("absent", [str(tmp_path / "none")], None)]
    assert not run(monkeypatch, tmp_path, "checks", absent)
    assert "No such file" in (tmp_path / "first-hour.md").read_text()


@pytest.mark.parametrize("arguments", [[], ["--stage=none", "--data=a"]])
def test_bad_arguments_are_one_line(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_hour", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
