"""Runs the real job with faults in one phase.

    python -m tests.support.faulty_job PHASE FAULT JOB_FLAG...

FAULT is one or more of these, joined by "+":

    SIGNAL   The process sends itself the signal of this name.
    hang     The main thread blocks in native code and ignores signals.
    lock     The main thread blocks in native code and holds the GIL.
    pause    The main thread sleeps for three seconds.
    thread   Another thread fails.

In the phase `storage`, FAULT is a call of the saver's thread and a signal, such
as `link.begin:1=SIGKILL`; see `storage_calls`. For tests only.
"""

import ctypes
import importlib.abc
import os
import signal
import sys
import threading

from job import main
from job.checkpoint import saver
from job.supervision import exits, preemption, watchdog
from tests.support import storage_calls

NATIVE = ctypes.CDLL(None)
NATIVE_WITH_LOCK = ctypes.PyDLL(None)


def happen(faults):
    """Triggers each fault once."""
    while faults:
        fault = faults.pop(0)
        if fault == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            NATIVE.sleep(600)
        elif fault == "pause":
            NATIVE.sleep(3)
        elif fault == "lock":
            NATIVE_WITH_LOCK.sleep(600)
        elif fault == "thread":
            threading.Thread(target=lambda: 1 / 0, name="planted").start()
            NATIVE.sleep(600)
        else:
            if "hang" in faults:
                # The main thread blocks the signal, so another one gets it.
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.kill(os.getpid(), signal.Signals[fault])


class WhileImporting(importlib.abc.MetaPathFinder):
    """Import hook that triggers faults halfway through TensorFlow's import."""

    def __init__(self, faults):
        self.faults = faults

    def find_spec(self, name, path, target=None):
        if name == "tensorflow.python.ops.math_ops":
            happen(self.faults)


def plant(phase, faults):
    """Installs the faults in a phase."""
    if phase == "import":
        sys.meta_path.insert(0, WhileImporting(faults))
        return

    from job.data import synthetic
    from job.training import evaluate, loop, optimizer

    def before(owner, name, when=lambda *args, **kwargs: True):
        plain = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if when(*args, **kwargs):
                happen(faults)
            return plain(*args, **kwargs)

        setattr(owner, name, wrapped)

    if phase == "data":
        before(synthetic, "draw")
    elif phase == "compile":
        before(optimizer, "sgd_update")  # Called while the step is traced.
    elif phase == "train":
        before(loop.Loop, "run_periodic_actions", lambda self: self.step >= 7)
    elif phase == "save":
        before(loop.Loop, "save")
    elif phase in ("evaluate", "score"):
        plain = evaluate.Evaluator.__call__

        def wrapped(self, weights, *, tta=False, poll):
            polls = []

            def planted():
                polls.append(1)
                if len(polls) == 2 and tta == (phase == "score"):
                    happen(faults)
                poll()

            return plain(self, weights, tta=tta, poll=planted)

        evaluate.Evaluator.__call__ = wrapped
    else:
        raise ValueError(phase)


if __name__ == "__main__":
    STOP = preemption.StopRequest()
    STOP.install()
    watchdog.BACKSTOP_SECONDS = 5.0
    watchdog.HEARTBEAT_SECONDS = 0.5
    if sys.argv[1] == "storage":
        storage_calls.install(
            storage_calls.parse(sys.argv[2], thread=saver.THREAD)
        )
    else:
        plant(sys.argv[1], sys.argv[2].split("+"))
    exits.exit_now(main.main([sys.argv[0], *sys.argv[3:]], STOP))
