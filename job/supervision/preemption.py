"""Graceful shutdown on SIGTERM and SIGINT (Ctrl-C).

    stop = StopRequest()
    stop.install()      # before the import of TensorFlow, which takes seconds
    stop.check()        # between two pieces of work

The main thread polls the request, saves its state and exits. During a
compilation or another native call it cannot poll. A thread then ends the
process shortly before the end of the grace period, or immediately on a second
signal. The module does not import TensorFlow.
"""

import contextlib
import ctypes
import math
import os
import select
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from job import errors
from job.supervision import termination

# Time from the signal until the process is killed. It is 30 s in Kubernetes, 15
# s on GKE Spot and 10 s with `docker stop`.
GRACE_SECONDS = 25.0

# Time before the end of the grace period at which the process exits, at most
# half of the period.
_MARGIN_SECONDS = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Environment variable with the id of the parent, whose end requests a stop.
PARENT_VARIABLE = "JOB_PARENT"
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Request to stop the process, by a signal or by another worker.

    Attributes:
      requested: Whether a stop was requested.
      grace_seconds: Time from the signal until the process is killed, in
        seconds.
      last_line: End of the last line of the log, which describes the saved
        state. Each commit of a checkpoint updates it.
      has_saved: Whether this process has committed a checkpoint.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self.requested = False
        self.grace_seconds = grace_seconds
        self.last_line = (
            "nothing is lost, as no step had begun; run the same command again"
        )
        self.has_saved = False
        self._signal = ""
        self._since = math.inf
        self._leaving = threading.Lock()
        self._installed = False

    def install(self) -> None:
        """Installs the signal handlers, from the main thread."""
        # Python runs a handler only after the main thread has returned from
        # native code, but its C handler writes to this pipe immediately.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(
            target=self._enforce_grace_period,
            args=(reader,),
            name="stop",
            daemon=True,
        )
        thread.start()
        self._installed = True
        self.listen()
        parent = os.environ.pop(PARENT_VARIABLE, "")
        if parent.isdecimal() and len(parent) < 20:
            self._end_with(int(parent))

    def _end_with(self, parent: int) -> None:
        """Requests a stop when the parent process ends."""
        with contextlib.suppress(OSError, AttributeError):  # Linux only.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It may have ended before the call above.
            signal.raise_signal(signal.SIGTERM)

    def listen(self) -> None:
        """Reinstalls the handlers after a library has replaced them."""
        for number in _SIGNALS if self._installed else ():
            signal.signal(number, self._remember)

    def check(self) -> None:
        """Raises PreemptedError if a stop was requested."""
        if self.requested:
            raise errors.PreemptedError(
                f"stopped by {self._signal}: {self.last_line}"
            )

    def ask(self, who: str) -> None:
        """Requests a stop on behalf of another process.

        Args:
          who: Name of the signal or process for messages.
        """
        if not self.requested:
            self._signal = who
            self._since = time.monotonic()
            self.requested = True

    def note_saved(self, step: int) -> None:
        """Records a commit of this process for the last line of the log."""
        self.note_restored(step)
        self.has_saved = True

    def note_restored(self, step: int) -> None:
        """Records the newest committed step for the last line of the log."""
        self.last_line = (
            f"all is saved up to step {step}; the same command resumes"
            if step
            else "no step is saved yet; the same command starts at step 0"
        )

    def remaining(self) -> float:
        """Returns the seconds left for a save, infinity without a request."""
        margin = self._margin()
        return self._since + self.grace_seconds - margin - time.monotonic()

    def claim_last_line(self) -> None:
        """Reserves the last line of the log for the calling thread.

        Any other thread blocks here until the process has ended.
        """
        self._leaving.acquire()

    def _remember(self, number: int, frame: FrameType | None = None) -> None:
        if not self.requested:
            self._signal = signal.Signals(number).name
            self._since = time.monotonic()
            self.requested = True

    def _margin(self) -> float:
        return min(_MARGIN_SECONDS, self.grace_seconds / 2)

    def _enforce_grace_period(self, reader: int) -> None:
        while (number := os.read(reader, 1)[0]) not in _SIGNALS:
            pass
        self._remember(number)
        # The main thread may have printed its last line already.
        if self._leaving.acquire(blocking=False):
            self._say(
                f"{self._signal}: saving and exiting; send it again to exit"
                " immediately"
            )
            self._leaving.release()
        while (seconds := self.remaining()) > 0:
            if select.select([reader], [], [], seconds)[0]:
                if os.read(reader, 1)[0] in _SIGNALS:
                    self._exit_now("a second signal ended the process")
        self._exit_now("the grace period ended before the current work")

    def _exit_now(self, why: str) -> NoReturn:
        # The main thread may be printing its own last line.
        if self._leaving.acquire(timeout=self._margin() / 2):
            line = (
                f"preempted: stopped by {self._signal}, {why}: {self.last_line}"
            )
            self._say(line)
            termination.write(errors.PreemptedError.exit_code, line)
        os._exit(errors.PreemptedError.exit_code)

    def _say(self, text: str) -> None:
        # Logging would take locks that the interrupted code may hold.
        termination.say(f"{text}\n")
