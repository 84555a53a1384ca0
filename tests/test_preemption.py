"""The wish to stop, without a job around it; with one: test_faults.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from job import errors, preemption

from .conftest import ROOT

_WAIT = """
import sys, time
from job import preemption
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
def test_a_first_signal_is_remembered_and_a_second_ends(number):
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


def test_the_message_says_what_is_saved():
    stop = preemption.StopRequest()
    old = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    try:
        stop.install()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(
            errors.PreemptedError, match="SIGTERM: all is saved"
        ):
            stop.check("all is saved")
    finally:
        for number, handler in zip(
            (signal.SIGTERM, signal.SIGINT), old, strict=True
        ):
            signal.signal(number, handler)
