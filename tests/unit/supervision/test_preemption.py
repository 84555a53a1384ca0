"""Tests of stop requests without a job. test_faults.py starts the job."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from job import errors
from job.supervision import preemption
from tests.support import unread
from tests.support.jobs import ROOT

_WAIT = """
import sys, time
from job.supervision import preemption
stop = preemption.StopRequest()
stop.install()
print("ready", flush=True)
while not stop.requested:
    time.sleep(0.01)
print("heard", flush=True)
time.sleep(30)
"""


def test_nothing_is_raised_before_a_signal():
    preemption.StopRequest().check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_requests_a_stop_and_second_exits(number):
    process = subprocess.Popen(
        [sys.executable, "-c", _WAIT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "heard\n"
    assert process.poll() is None
    process.send_signal(number)
    start = time.monotonic()
    assert process.wait(timeout=10) == errors.PreemptedError.exit_code
    assert time.monotonic() - start < 5
    assert process.stderr.read().startswith(signal.Signals(number).name)


def run_script(text):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_message_has_the_saved_state():
    done = run_script("""
        import os, signal
        from job import errors
        from job.supervision import preemption
        stop = preemption.StopRequest()
        stop.install()
        assert stop.remaining() == float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
        stop.last_line = "all is saved"
        assert 0 < stop.remaining() <= preemption.GRACE_SECONDS - 2
        try:
            stop.check()
        except errors.PreemptedError as error:
            print(error)
        """)
    assert done.stdout == "stopped by SIGTERM: all is saved\n", done.stderr


def test_an_unresponsive_process_ends_before_the_grace_period():
    done = run_script("""
        import ctypes, os, signal
        from job.supervision import preemption
        stop = preemption.StopRequest(grace_seconds=1.0)
        stop.install()
        stop.last_line = "step 5 is saved"
        # Python's handlers do not run during native code.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.kill(os.getpid(), signal.SIGTERM)
        ctypes.CDLL(None).sleep(50)
        """)
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "preempted: stopped by SIGTERM, the grace period ended before the"
        " current work: step 5 is saved"
    )


def test_an_unread_log_does_not_delay_the_exit():
    code = unread.exit_code(
        "import os, signal\n"
        "from job.supervision import preemption\n"
        "preemption.StopRequest(grace_seconds=1.0).install()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert code == 75


def test_a_child_process_ends_with_its_parent(tmp_path):
    marks = tmp_path / "marks"
    child = f"""
        import os, pathlib, time
        from job.supervision import preemption
        stop = preemption.StopRequest()
        stop.install()
        assert preemption.PARENT_VARIABLE not in os.environ
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        pathlib.Path({str(marks)!r}).write_text("heard")
        """
    done = run_script(f"""
        import os, subprocess, sys
        from job.supervision import preemption
        name = preemption.PARENT_VARIABLE
        child = subprocess.Popen(
            [sys.executable, "-c", {textwrap.dedent(child)!r}],
            env={{**os.environ, name: str(os.getpid())}},
            process_group=0,
            stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        os._exit(75)
        """)
    assert done.returncode == 75, done.stderr
    deadline = time.monotonic() + 30
    while not marks.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_handlers_are_reinstalled_after_a_library():
    done = run_script("""
        import os, signal
        from job import errors
        from job.supervision import preemption
        stop = preemption.StopRequest()
        stop.listen()  # No handler is installed yet.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        stop.install()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.ask("another worker's signal")  # The second request has no effect.
        stop.last_line = "all is saved"
        try:
            stop.check()
        except errors.PreemptedError as error:
            print(error)
        """)
    assert done.stdout == "stopped by SIGTERM: all is saved\n", done.stderr


def test_only_one_last_line_is_printed():
    done = run_script("""
        import os, signal, sys, time
        from job.supervision import preemption
        stop = preemption.StopRequest(grace_seconds=1.0)
        stop.install()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.claim_last_line()
        sys.stderr.write("mine" + chr(10))
        time.sleep(50)  # The interpreter does not exit.
        """)
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == "mine"
