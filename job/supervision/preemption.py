"""SIGTERM and Ctrl-C: a wish to stop, heard at once, granted in good order.

    stop = StopRequest()
    stop.install()      # before TensorFlow is imported: that takes seconds
    stop.check()        # between two pieces of work

The main thread is asked first: it saves where it is and ends. Where it cannot
answer (a compilation, a call into native code), a thread ends the process
shortly before the node would; a second signal does so on the spot. Imports no
TensorFlow.
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

# From the signal until the node kills what is left. Kubernetes gives 30 s
# where nothing else is said, GKE Spot 15, `docker stop` 10.
GRACE_SECONDS = 25.0

# The process has gone that long before the grace is over; half of a short one.
_MARGIN_SECONDS = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# In the environment: the process to end with, by its number.
PARENT_VARIABLE = "JOB_PARENT"
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Remembers that the process was told to stop, and sees that it does.

    Attributes:
      requested: whether it was.
      grace_seconds: from the signal until the process is killed.
      saved: what the last line says of the state that a later start finds; who
        commits a checkpoint keeps it true.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self.requested = False
        self.grace_seconds = grace_seconds
        self.saved = "before the first step of this start; nothing is lost"
        self._signal = ""
        self._since = math.inf
        self._leaving = threading.Lock()
        self._stderr = 2
        self._installed = False

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT; call it from the main thread."""
        # Its own: file descriptor 2 may be led elsewhere for a while.
        self._stderr = os.dup(2)
        # Python runs a handler in the main thread, once that is back from
        # native code; its C part writes to this pipe whatever goes on there.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(
            target=self._see_to_it, args=(reader,), name="stop", daemon=True
        )
        thread.start()
        self._installed = True
        self.listen()
        if parent := os.environ.pop(PARENT_VARIABLE, ""):
            self._end_with(int(parent))

    def _end_with(self, parent: int) -> None:
        """Has the end of the process that started this one stop it."""
        with contextlib.suppress(OSError, AttributeError):  # Linux alone.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It was quicker.
            signal.raise_signal(signal.SIGTERM)

    def listen(self) -> None:
        """Takes the signals back, if it had them, from a library."""
        for number in _SIGNALS if self._installed else ():
            signal.signal(number, self._remember)

    def check(self) -> None:
        """Raises PreemptedError if the process was told to stop."""
        if self.requested:
            raise errors.PreemptedError(
                f"stopped by {self._signal}: {self.saved}"
            )

    def ask(self, who: str) -> None:
        """Has this process stop as well as another one that was told to."""
        if not self.requested:
            self._signal = who
            self._since = time.monotonic()
            self.requested = True

    def note_saved(self, step: int) -> None:
        """Has the last line say that a later start finds this step."""
        self.saved = (
            f"all is saved up to step {step}"
            if step
            else "no step is saved yet; the next start begins at step 0"
        )

    def remaining(self) -> float:
        """Returns the seconds left to save in; infinite if not told to stop."""
        margin = self._margin()
        return self._since + self.grace_seconds - margin - time.monotonic()

    def claim_last_line(self) -> None:
        """Returns to the one caller that may print the last line.

        Any other thread waits here until the process has gone.
        """
        self._leaving.acquire()

    def _remember(self, number: int, frame: FrameType | None = None) -> None:
        if not self.requested:
            self._signal = signal.Signals(number).name
            self._since = time.monotonic()
            self.requested = True

    def _margin(self) -> float:
        return min(_MARGIN_SECONDS, self.grace_seconds / 2)

    def _see_to_it(self, reader: int) -> None:
        while (number := os.read(reader, 1)[0]) not in _SIGNALS:
            pass
        self._remember(number)
        # Not behind the main thread's last line, which may be out already.
        if self._leaving.acquire(blocking=False):
            self._say(f"{self._signal}: stopping in order; once more: at once")
            self._leaving.release()
        while (seconds := self.remaining()) > 0:
            if select.select([reader], [], [], seconds)[0]:
                if os.read(reader, 1)[0] in _SIGNALS:
                    self._leave("a second signal ended it at once")
        self._leave("the grace was over before the work at hand was")

    def _leave(self, why: str) -> NoReturn:
        # The main thread may be printing its own last line: let it.
        if self._leaving.acquire(timeout=self._margin() / 2):
            line = f"preempted: stopped by {self._signal}, {why}: {self.saved}"
            self._say(line)
            termination.write(errors.PreemptedError.exit_code, line)
        os._exit(errors.PreemptedError.exit_code)

    def _say(self, text: str) -> None:
        # Logging takes locks, which the interrupted code may hold.
        termination.say(self._stderr, f"{text}\n")
