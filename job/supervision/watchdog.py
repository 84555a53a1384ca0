"""Watchdog that ends a run that hangs, and writes a heartbeat file.

    watchdog = Watchdog(600.0, heartbeat_file=path)
    watchdog.start()
    watchdog.beat("train", step)        # between two pieces of work

A beat is one assignment, and two threads react to it. If the time limit passes
without a beat, one prints the stacks of all threads and exits with code 76. The
other writes the heartbeat file after a beat. The age of the file is the time
since the last beat, which a container's liveness probe checks. The module does
not import TensorFlow.
"""

import contextlib
import dataclasses
import faulthandler
import os
import pathlib
import threading
import time
from collections.abc import Callable

from job import errors
from job.storage import files
from job.supervision import termination

# Maximum time between two beats, the default of --watchdog_seconds. A call in
# the loop takes 2 s.
SECONDS = 600.0

# Maximum time for long work: an import from a cold disk, a compilation or a
# download.
LONG_SECONDS = 1800.0

# Time after which a thread without Python's global lock ends the process with
# code 1. A hang that holds the lock stops the watchdog's thread too.
BACKSTOP_SECONDS = 60.0

# Interval at which a new beat is written to the heartbeat file.
HEARTBEAT_SECONDS = 5.0

# Size limit of the stacks, enough for about 100 threads.
_MOST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class _Beat:
    """Last beat of the main thread.

    Attributes:
      phase: Name of the work that followed.
      step: Training step. None before training.
      at: Time of the beat, in seconds since the epoch.
      allowed: Time limit of the next beat, in seconds.
    """

    phase: str
    step: int | None
    at: float
    allowed: float


class Watchdog:
    """Watchdog of the main thread, which must beat within a time limit.

    Before `start` the watchdog accepts beats without any effect.
    """

    def __init__(
        self,
        seconds: float = SECONDS,
        *,
        heartbeat_file: pathlib.Path | None = None,
        saved: Callable[[], str] = str,
    ) -> None:
        """Stores the arguments without starting a thread.

        Args:
          seconds: Maximum time between two beats in seconds. If 0, without
            limit.
          heartbeat_file: File that is written after beats, every few seconds.
            If None, no file is written.
          saved: Function that describes the saved state for the last line.
        """
        self._seconds = seconds
        self._heartbeat_file = heartbeat_file
        self._saved = saved
        self.beat("start")

    def start(self) -> None:
        """Starts the threads for the time limit and the heartbeat file."""
        self.beat("import", seconds=LONG_SECONDS)
        if self._seconds:
            self._start_thread("watchdog", self._watch)
        if self._heartbeat_file:
            self._start_thread("heartbeat", self._write_heartbeats)

    def beat(
        self, phase: str, step: int | None = None, *, seconds: float = 0.0
    ) -> None:
        """Records a sign of life of the main thread.

        Args:
          phase: Name of the work that begins now.
          step: Training step. None before training.
          seconds: Time limit of that work in seconds. Used if it exceeds the
            default.
        """
        allowed = max(self._seconds, seconds)
        self._beat = _Beat(phase, step, time.time(), allowed)

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _watch(self) -> None:
        tick = min(1.0, self._seconds / 4)
        seen, silent = self._beat, 0.0
        armed = -1.0
        now = time.monotonic()
        while silent < seen.allowed:
            left = seen.allowed - silent + BACKSTOP_SECONDS
            # Each call starts a thread, so small changes are ignored.
            if abs(armed - (now + left)) > BACKSTOP_SECONDS / 4:
                armed = now + left
                faulthandler.dump_traceback_later(left, exit=True, file=2)
            time.sleep(tick)
            before, now = now, time.monotonic()
            if self._beat is seen:
                # The sum of ticks excludes the time of a suspended process, as
                # in a paused container. (The backstop measures elapsed time, so
                # a longer pause ends the process, and the next attempt
                # resumes.)
                silent += min(now - before, 2 * tick)
            else:
                seen, silent = self._beat, 0.0
        self._end(seen)

    def _end(self, last: _Beat) -> None:
        faulthandler.cancel_dump_traceback_later()
        at = "" if last.step is None else f" at step {last.step}"
        line = (
            f"hung: no progress for {last.allowed:g} s in {last.phase}{at};"
            f" the stacks of all threads are above: {self._saved()}\n"
        )
        termination.write(errors.HungError.exit_code, line)
        # A direct write to stderr could block while it holds Python's global
        # lock, if the reader has stopped.
        with contextlib.suppress(OSError):
            stacks = os.memfd_create("stacks")
            faulthandler.dump_traceback(file=stacks)
            text = os.pread(stacks, _MOST_BYTES, 0).decode(errors="replace")
            termination.say(text)
        termination.say(line)
        os._exit(errors.HungError.exit_code)

    def _write_heartbeats(self) -> None:
        assert self._heartbeat_file is not None
        written = None
        while True:
            last = self._beat
            if last is not written:
                # The main thread reports a full disk.
                with contextlib.suppress(OSError, errors.StorageError):
                    files.write_json(
                        self._heartbeat_file,
                        {
                            "phase": last.phase,
                            "step": last.step,
                            "time": round(last.at, 3),
                        },
                    )
                    written = last
            time.sleep(HEARTBEAT_SECONDS)
