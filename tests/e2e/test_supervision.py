"""Stop requests, hangs and restarts without progress, in each phase.

The tests send real signals to real processes. faulty_job.py triggers them at
the same point each time.
"""

import json
import signal
import subprocess
import sys
import time

import pytest

from job.checkpoint import store
from job.output import metrics
from job.storage.workdir import STARTS
from job.supervision import restarts
from tests.support.jobs import ROOT, job_command, run_job

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ARGS = ("--config=configs/smoke.py", "--config.steps_per_loop=1")

NOTHING_LOST = "no step had begun; run the same command again"
NO_STEP = "no step is saved yet; the same command starts at step 0"


def run_faulty(phase, fault, workdir, *args):
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.faulty_job", phase, fault),
            *(*ARGS, f"--workdir={workdir}", *args),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def last_line(done):
    return done.stderr.strip().splitlines()[-1]


def committed(workdir):
    return store.CheckpointStore(workdir / "checkpoints").committed_steps()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    done = run_job(*ARGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same_run(workdir, whole):
    def outcome(folder):
        found, tensors = store.CheckpointStore(
            folder / "checkpoints"
        ).restore_newest()
        del tensors["metrics_log"]  # It contains times; see below.
        lines = [
            {k: v for k, v in line.items() if k != "images_per_second"}
            for line in metrics.read(folder)
        ]
        return found.step, lines, {k: v.tobytes() for k, v in tensors.items()}

    assert outcome(workdir) == outcome(whole)


def test_stopped_in_each_phase_nothing_is_lost(tmp_path, whole):
    """Stops one run in one phase after another, and then lets it finish."""
    for phase, fault, args, said, steps in (
        ("import", "SIGTERM", (), NOTHING_LOST, []),
        ("import", "SIGINT+hang", ("--grace_seconds=3",), NOTHING_LOST, []),
        ("data", "SIGINT", (), NOTHING_LOST, []),
        ("compile", "SIGTERM+hang", ("--grace_seconds=1",), NO_STEP, []),
        ("train", "SIGTERM", (), "all is saved up to step 7", [5, 7]),
        ("evaluate", "SIGTERM", (), "all is saved up to step 10", [7, 10]),
        ("save", "SIGTERM", (), "all is saved up to step 15", [10, 15]),
        (
            *("save", "SIGTERM+hang", ("--grace_seconds=3",)),
            *("all is saved up to step 15", [10, 15]),
        ),
        (
            *("train", "SIGTERM+SIGINT+hang", ("--grace_seconds=500",)),
            *("all is saved up to step 15", [10, 15]),
        ),
        ("score", "SIGINT", (), "all is saved up to step 20", [15, 20]),
    ):
        done = run_faulty(phase, fault, tmp_path, *args)
        assert done.returncode == 75, (phase, fault, done.stderr[-2000:])
        assert last_line(done).startswith("preempted: stopped by SIG")
        assert said in last_line(done), (phase, fault, last_line(done))
        # Older checkpoints are removed only if there is time.
        assert committed(tmp_path)[-len(steps) :] == steps
        scored = [s for s in (10, 20) if steps and s <= steps[-1]]
        if phase in ("evaluate", "score"):
            scored.remove(steps[-1])  # It was not scored yet.
        lines = [
            line["step"]
            for line in metrics.read(tmp_path)
            if line["split"] == "test" and line["step"] <= max(steps, default=0)
        ]
        assert lines == scored, phase
    done = run_job(*ARGS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, whole)
    assert not (tmp_path / STARTS).exists()


def test_a_hang_ends_with_76_and_stacks_and_the_run_resumes(tmp_path, whole):
    beats = tmp_path / "heartbeat"
    workdir = tmp_path / "run"
    watched = ("--watchdog_seconds=6", f"--heartbeat_file={beats}")
    done = run_faulty("train", "hang", workdir, *watched)
    assert done.returncode == 76, done.stderr[-2000:]
    assert last_line(done).startswith("hung: no progress for 6 s in train")
    assert "all is saved up to step 5; the same" in last_line(done)
    assert "in happen" in done.stderr  # The main thread's stack.
    beat = json.loads(beats.read_text())
    assert (beat["phase"], beat["step"]) == ("train", 6)
    assert beat["time"] < time.time() - 5
    # Now the hang blocks all Python threads. After the compilation, which has a
    # longer limit, the watchdog's thread must have run once.
    done = run_faulty("train", "pause+lock", workdir, *watched)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "in happen" in done.stderr
    done = run_job(*ARGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, whole)


def test_a_thread_that_fails_ends_the_job_loudly(tmp_path):
    done = run_faulty("data", "thread", tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert last_line(done) == "bug: thread planted failed, so the job exits"


def test_ten_kills_without_a_step_gained_are_enough(tmp_path):
    command = job_command(*ARGS, f"--workdir={tmp_path}")
    for number in range(1, 11):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while len(restarts.read(tmp_path)) < number:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run_job(*ARGS, f"--workdir={tmp_path}")
    assert done.returncode == 4, done.stderr
    line = last_line(done)
    assert "10 attempts in a row made no progress beyond the start" in line
    assert "10 x killed or hung without a message" in line
    # Removing the file resets the count, as the message says.
    (tmp_path / STARTS).unlink()
    done = run_job(*ARGS, f"--workdir={tmp_path}", "--config.steps=1")
    assert done.returncode == 0, done.stderr


def test_a_process_that_was_halted_is_not_taken_for_hung():
    script = (
        "import time\n"
        "from job.supervision import watchdog\n"
        "watch = watchdog.Watchdog(4.0)\n"
        "watch.start()\n"
        "for step in range(100):\n"
        "    watch.beat('train', step)\n"
        "    print(step, flush=True)\n"
        "    for _ in range(8):\n"
        "        time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    process.send_signal(signal.SIGCONT)
    assert [process.stdout.readline() for _ in range(3)] == [
        f"{step}\n" for step in (1, 2, 3)
    ], process.stderr.read()
    process.kill()
    process.communicate()
