"""Tests of the termination message of a container."""

import subprocess
import sys

import pytest

from job.supervision import termination
from tests.support.jobs import ROOT, run_job


@pytest.fixture
def message(tmp_path, monkeypatch):
    path = tmp_path / "termination-log"
    path.write_text("of an earlier start, which was longer than this one")
    monkeypatch.setenv(termination.PATH_VARIABLE, str(path))
    return path


def test_message_is_one_line_within_the_limit(message):
    termination.write(5, "diverged:\n  a lot\n" + "x" * 9000)
    content = message.read_bytes()
    assert content.startswith(b"exit 5: diverged: a lot x")
    assert len(content) == 4096
    assert content.count(b"\n") == 1


def test_outside_a_pod_no_file_is_created(message, tmp_path):
    message.unlink()
    termination.write(0, "done")
    assert not list(tmp_path.iterdir())


def test_wrong_flag_and_finished_mode_write_a_message(message):
    done = run_job("--config=configs/smoke.py", "--config.seed=-1")
    assert done.returncode == 2
    assert message.read_text() == f"exit 2: {done.stderr.splitlines()[-1]}\n"
    done = run_job("--config=configs/smoke.py", "--mode=config")
    assert done.returncode == 0
    assert message.read_text() == "exit 0: done: --mode=config\n"


_END = """
import os, signal, sys, threading, time
from job import main
from job.supervision import exits, preemption, watchdog
stop = preemption.StopRequest(grace_seconds=0.2)
stop.install()
what = sys.argv[1]
if what == "stop":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
elif what == "hang":
    watchdog.LONG_SECONDS = 0.4
    watch = watchdog.Watchdog(0.4, saved=lambda: "all is saved")
    watch.start()
    watch.beat("train", 7)
elif what == "thread":
    threading.excepthook = exits.exit_on_thread_error
    threading.Thread(target=lambda: 1 / 0, name="planted").start()
else:
    def fail(mode, stop): raise RuntimeError("nobody saw it coming")
    main.run_mode = fail
    exits.exit_now(main.main(["job", "--mode=config"], stop))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("stop", 75, "exit 75: preempted: stopped by SIGTERM, the grace"),
        ("hang", 76, "exit 76: hung: no progress for 0.4 s in train at step 7"),
        ("thread", 1, "exit 1: bug: thread planted: division by zero"),
        ("bug", 1, "exit 1: bug: RuntimeError: nobody saw it coming"),
    ],
)
def test_every_end_writes_its_line(message, what, code, said):
    done = subprocess.run(
        [sys.executable, "-c", _END, what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr[-500:]
    assert message.read_text().startswith(said), message.read_text()
