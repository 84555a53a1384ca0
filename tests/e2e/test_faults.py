"""Tests of SIGKILL, SIGTERM and Ctrl-C on the real job, as on a node."""

import pathlib
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from job.checkpoint import store
from job.output import metrics
from tests.support.jobs import ROOT, job_command, run_job

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# 120 steps of about 30 ms leave enough time for a kill in the middle.
ARGS = (
    "--config=configs/smoke.py",
    "--config.steps=120",
    "--config.log_every_steps=10",
    "--config.checkpoint.every_steps=7",
    "--config.evaluate.every_epochs=4",
    "--config.steps_per_loop=1",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns an uninterrupted run's workdir and its duration in seconds."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    start = time.monotonic()
    done = run_job(*ARGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, time.monotonic() - start


def start_job(workdir):
    return subprocess.Popen(
        job_command(*ARGS, f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def committed(workdir: pathlib.Path) -> list[int]:
    return store.CheckpointStore(workdir / "checkpoints").committed_steps()


def wait_for_step(workdir, process, step):
    deadline = time.monotonic() + 120
    while max(committed(workdir), default=0) < step:
        if process.poll() is not None:
            # The run may have ended between the two checks.
            assert max(committed(workdir), default=0) >= step, (
                process.stdout.read()
            )
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_same_run(workdir, whole):
    def tensors(folder):
        made = store.CheckpointStore(folder / "checkpoints")
        found, content = made.restore_newest()
        assert found.step == 120
        del content["metrics_log"]  # It contains times; see below.
        return content

    one, other = tensors(workdir), tensors(whole)
    assert one.keys() == other.keys()
    for name, value in other.items():
        assert one[name].tobytes() == value.tobytes(), name

    def lines(folder):
        return [
            {k: v for k, v in line.items() if k != "images_per_second"}
            for line in metrics.read(folder)
        ]

    assert lines(workdir) == lines(whole)
    keys = [(line["split"], line["step"]) for line in lines(workdir)]
    assert len(keys) == len(set(keys))


def test_killed_at_ten_random_moments_the_weights_are_byte_equal(
    tmp_path, uninterrupted
):
    whole, seconds = uninterrupted
    rng = np.random.default_rng(0)
    kills = finished = 0
    while kills < 10:
        workdir = tmp_path / str(finished)
        process = start_job(workdir)
        # Some kills precede all progress. Most come during training or a save,
        # up to shortly after the next checkpoint.
        before = max(committed(workdir), default=0)
        if kills % 3:
            wait_for_step(workdir, process, min(before + 7, 113))
            time.sleep(rng.uniform(0, 0.25))
        else:
            time.sleep(rng.uniform(0, seconds / 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            continue
        # The run ended before this kill. Compare it like a resumed run, and
        # use the remaining kills for a new one.
        assert process.returncode == 0, process.stdout.read()
        assert_same_run(workdir, whole)
        finished += 1
    done = run_job(*ARGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, whole)
    again = run_job(*ARGS, f"--workdir={workdir}")
    assert again.returncode == 0
    assert "nothing left to do" in again.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_current_step(tmp_path, uninterrupted, number):
    process = start_job(tmp_path)
    wait_for_step(tmp_path, process, 21)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"preempted: stopped by {number.name}")
    saved = max(committed(tmp_path))
    assert f"all is saved up to step {saved}; the same command" in last
    assert saved >= 21
    done = run_job(*ARGS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, uninterrupted[0])


def test_a_signal_during_the_import_of_tensorflow(tmp_path):
    process = start_job(tmp_path)
    wait_for_handler(process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "nothing is lost" in output


def wait_for_handler(process):
    """Waits for the SIGTERM handler, which precedes TensorFlow's import."""
    deadline = time.monotonic() + 60
    caught = 0
    while not caught & (1 << (signal.SIGTERM - 1)):
        assert time.monotonic() < deadline
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16)
        time.sleep(0.01)


def test_a_second_signal_ends_the_job_immediately(tmp_path):
    process = start_job(tmp_path)
    wait_for_step(tmp_path, process, 7)
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.wait(timeout=10)
    assert process.returncode == 75
    done = run_job(*ARGS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr


def test_a_run_writes_to_its_workdir_and_to_a_font_cache(tmp_path):
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    before = project_files()
    done = run_job(
        "--config=configs/smoke.py",
        "--config.steps=2",
        f"--workdir={tmp_path}/run",
        env={
            "HOME": str(home),
            "TMPDIR": str(scratch),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "-1",
        },
    )
    assert done.returncode == 0, done.stderr
    # matplotlib keeps its list of fonts in the user's cache folder.
    written = {path.parent for path in home.rglob("*") if path.is_file()}
    assert written <= {home / ".cache/matplotlib"}
    assert not [*scratch.rglob("*")]
    assert project_files() == before


def project_files():
    """Returns the project's files, without caches and hidden files."""
    return {
        path
        for top in ROOT.iterdir()
        if not top.name.startswith(".")
        for path in (top, *top.rglob("*"))
        if "__pycache__" not in path.parts
    }
