"""Tests of the watchdog without a job. test_supervision.py starts the job."""

import json
import subprocess
import sys
import time

from job.supervision import watchdog
from tests.support import unread
from tests.support.jobs import ROOT


def run_script(text):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import time\nfrom job.supervision import watchdog\n" + text,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_missing_beat_exits_with_76_and_the_phase():
    done = run_script(
        "watch = watchdog.Watchdog(0.5, saved=lambda: 'all is saved')\n"
        "watch.start()\n"
        "watch.beat('train', 7)\n"
        "time.sleep(60)\n"
    )
    assert done.returncode == 76, done.stderr
    assert "most recent call first" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "hung: no progress for 0.5 s in train at step 7; the stacks of all"
        " threads are above: all is saved"
    )


def test_beats_and_long_work_do_not_end_the_process():
    done = run_script(
        "watch = watchdog.Watchdog(2.0)\n"
        "watch.start()\n"
        "for _ in range(25):\n"
        "    watch.beat('train')\n"
        "    time.sleep(0.1)\n"
        "watch.beat('compile', seconds=60)\n"
        "time.sleep(2.5)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_an_unread_log_does_not_block_the_watchdog():
    code = unread.exit_code(
        "from job.supervision import watchdog\n"
        "watch = watchdog.Watchdog(0.5)\n"
        "watch.start()\n"
        "watch.beat('train')\n"
    )
    assert code == 76


def test_zero_seconds_disable_the_watchdog():
    done = run_script(
        "import threading\n"
        "watchdog.Watchdog(0.0).start()\n"
        "print(threading.active_count())\n"
    )
    assert done.stdout == "1\n"


def test_the_heartbeat_stops_with_the_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "later" / "heartbeat"
    watch = watchdog.Watchdog(0.0, heartbeat_file=path)
    watch.start()
    time.sleep(0.1)  # The disk is not writable for some time.
    path.parent.mkdir()

    def wait_for(step):
        deadline = time.monotonic() + 30
        while not path.exists() or json.loads(path.read_text())["step"] != step:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    for step in (5, 6):
        watch.beat("train", step)
        wait_for(step)
    assert json.loads(path.read_text())["phase"] == "train"
    before = path.stat().st_mtime_ns
    time.sleep(0.3)
    assert path.stat().st_mtime_ns == before
    watch.beat("train", 6)  # The step is the same, but the process is alive.
    deadline = time.monotonic() + 30
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
