"""Saving beside the training: the loop hands a snapshot over and goes on.

    saver = AsyncSaver(store)
    saver.save(step, tensors, run)       # returns at once
    saver.check()                        # raises what ended saving for good
    saver.flush(timeout=20.0)            # -> the newest committed step

One checkpoint is being written and one waits, at most. Where the store is slow,
a newer one takes the waiting one's place, so that a store that is away for an
hour costs neither steps nor memory: no more than two snapshots are ever held. A
save that fails is reported at once. Where the cause may pass it is tried again,
each time later, for as long as the patience lasts, or given up for a newer one;
else, or then, the next call of any method raises it. Imports no TensorFlow.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint import manifest
from job.checkpoint import store as store_lib

# Name of the thread that saves.
THREAD = "checkpoints"

# Time that training continues without a save while the store does not answer.
_PATIENCE_SECONDS = 3600.0
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
# A save that has taken that long is slow; until then the loop waits for it,
# rather than drop the one that waits.
_SLOW_SECONDS = 2.0
# What a bug elsewhere leaves to the save that was under way.
_LAST_SECONDS = 30.0


@dataclasses.dataclass
class _Job:
    """A checkpoint on its way.

    Attributes:
      step: training steps done.
      content: what to save; packed by the thread, once.
    """

    step: int
    content: "tuple[dict[str, np.ndarray], dict[str, Any]] | store_lib.Packed"


class AsyncSaver:
    """Saves checkpoints in a thread."""

    def __init__(
        self,
        store: store_lib.CheckpointStore,
        *,
        committed_step: int | None = None,
        on_commit: Callable[[int], None] = lambda step: None,
        patience_seconds: float = _PATIENCE_SECONDS,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
        longest_wait_seconds: float = _LONGEST_WAIT_SECONDS,
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        """Starts the thread, a daemon.

        Args:
          store: where checkpoints go; nobody else may save to it meanwhile.
          committed_step: of the checkpoint that the run goes on from, if any.
          on_commit: called with the step of each commit, by the thread.
          patience_seconds: since the last success, until a store that does not
            answer ends the run.
          first_wait_seconds: before the second try of a save; doubled for each
            one after it.
          longest_wait_seconds: between two tries.
          slow_seconds: of one save; only then is one that waits behind it
            dropped for a newer one.
        """
        self._store = store
        self._on_commit = on_commit
        self._patience = patience_seconds
        self._first_wait = first_wait_seconds
        self._longest_wait = longest_wait_seconds
        self._slow = slow_seconds
        self._changed = threading.Condition()
        # All of these under `_changed`.
        self._committed = committed_step
        self._running: _Job | None = None
        self._tidying = False
        # When the running one began, or is to begin.
        self._since = 0.0
        self._waiting: _Job | None = None
        self._fatal: Exception | None = None
        self._last_error: errors.StorageError | None = None
        self._failing_since: float | None = None
        # Of whoever waits: how many did so far, and the newest one's deadline.
        self._flushes = 0
        self._deadline: float | None = None
        self._closed = False
        self._seconds: list[tuple[int, float]] = []
        self._thread = threading.Thread(
            target=self._run, name=THREAD, daemon=True
        )
        self._thread.start()

    @property
    def committed_step(self) -> int | None:
        """The newest step that is there to stay; None: there is none."""
        with self._changed:
            return self._committed

    @property
    def commits(self) -> list[tuple[int, float]]:
        """Bytes and seconds of each save that this one has committed."""
        with self._changed:
            return [*self._seconds]

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> None:
        """Hands a checkpoint over; the arrays must not change any more.

        Args: see `store.CheckpointStore.save`.

        Raises: see `check`.
        """
        self.check()
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting or self._failing_since,
                max(0.0, self._since + self._slow - time.monotonic()),
            )
            if self._waiting:
                logging.warning(
                    "step %d takes the place of step %d, which was not saved"
                    " yet",
                    step,
                    self._waiting.step,
                )
            # One that waits for the store to be tidied has its own beginning;
            # else each newer one would wait anew while that takes its time.
            if not self._running and not self._waiting:
                self._since = time.monotonic()
            self._waiting = _Job(step, (tensors, run))
            self._changed.notify_all()

    def check(self) -> None:
        """Raises what ended saving for good, if anything did.

        Raises:
          LostRaceError: another process works on this run.
          StorageError: nothing can be saved there.
        """
        with self._changed:
            if self._fatal:
                raise self._fatal

    def wait(self, seconds: float) -> bool:
        """Waits; returns whether all is committed, and old ones are removed.

        Args:
          seconds: at most.

        Raises: see `check`.
        """
        with self._changed:
            self._changed.wait_for(self._is_idle, seconds)
            if self._fatal:
                raise self._fatal
            return self._is_idle()

    def flush(self, timeout: float | None = None) -> int | None:
        """Waits until all that was handed over is committed.

        Args:
          timeout: in seconds; None: as long as the patience lasts, and until
            old checkpoints are removed. It holds, whatever the store does: an
            upload that hangs is left behind.

        Returns:
          The newest committed step; None: there is none.

        Raises:
          LostRaceError: another process works on this run.
          StorageError: not all was committed; the message says why.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._flushes += 1
            self._deadline = deadline
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    not (self._pending() or (self._tidying and timeout is None))
                ),
                timeout,
            )
            self._deadline = None
            if self._fatal:
                raise self._fatal
            if self._pending():
                raise self._late(timeout)
            return self._committed

    def restore_newest(
        self,
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        """Returns the newest checkpoint, once all that was saved is committed.

        Raises:
          JobError: see `flush` and `store.CheckpointStore.restore_newest`.
        """
        self.flush()
        found = self._store.restore_newest()
        with self._changed:
            self._committed = found[0].step if found else None
        return found

    def close(self) -> None:
        """Ends the thread once it is idle; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()

    def __enter__(self) -> "AsyncSaver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: Any) -> None:
        # An end that the job foresees has seen to what was under way.
        if kind is None or not issubclass(kind, errors.JobError):
            with contextlib.suppress(errors.JobError):
                self.wait(_LAST_SECONDS)
        self.close()

    def _is_idle(self) -> bool:
        return not (self._pending() or self._tidying)

    def _pending(self) -> "_Job | None":
        return None if self._fatal else self._waiting or self._running

    def _late(self, timeout: float | None) -> errors.StorageError:
        job = self._pending()
        assert job
        cause = f": {self._last_error}" if self._last_error else ""
        return errors.UnavailableError(
            f"the checkpoint of step {job.step} was not committed within"
            f" {timeout:.1f} s{cause}"
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._running, self._waiting = self._waiting, None
                self._since = time.monotonic()
                job = self._running
                self._changed.notify_all()
            try:
                if self._save(job):
                    self._tidy(job.step)
            except Exception as error:
                # Whatever it is: the loop must hear of it, not this thread.
                logging.error("no checkpoint is saved any more: %s", error)
                with self._changed:
                    self._fatal = error
                    # Not to be committed: another process may be ahead.
                    self._waiting = None
                return
            finally:
                with self._changed:
                    self._running = None
                    self._tidying = False
                    self._changed.notify_all()
            del job  # Its memory, while this thread waits.

    def _tidy(self, step: int) -> None:
        """Removes old checkpoints; nobody in a hurry waits for that."""
        with self._changed:
            self._running = None
            self._tidying = True
            self._changed.notify_all()
        self._store.tidy(step, self._is_awaited)

    def _is_awaited(self) -> bool:
        """Says whether somebody waits for what waits to be saved."""
        with self._changed:
            return bool(self._waiting and self._deadline is not None)

    def _save(self, job: _Job) -> bool:
        """Commits a checkpoint, or leaves it for a newer one.

        Returns:
          Whether it is committed.
        """
        begun = time.monotonic()
        wait = self._first_wait
        if isinstance(job.content, tuple):
            job.content = self._store.pack(job.step, *job.content)
        while True:
            with self._changed:
                flushes = self._flushes
            try:
                self._store.commit(job.content, timeout=self._left())
                break
            except errors.UnavailableError as error:
                if self._is_out_of_patience():
                    raise
                logging.warning("%s; tried again in %.0f s", error, wait)
                if not self._wait(error, wait, flushes):
                    return False
                wait = min(2 * wait, self._longest_wait)
        self._on_commit(job.step)
        with self._changed:
            if self._failing_since:
                logging.info("the checkpoint of step %d is saved", job.step)
            self._failing_since = None
            self._last_error = None
            self._committed = job.step
            self._seconds.append((job.content.size, time.monotonic() - begun))
        return True

    def _is_out_of_patience(self) -> bool:
        with self._changed:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            self._changed.notify_all()
            return now - self._failing_since > self._patience

    def _wait(
        self, error: errors.StorageError, seconds: float, flushes: int
    ) -> bool:
        """Waits for the next try; returns whether there shall be one.

        Args:
          error: of the try before.
          seconds: to wait, at most.
          flushes: how many there had been when that try began.
        """
        with self._changed:
            self._last_error = error
            if self._deadline is not None:
                seconds = min(seconds, self._first_wait)

            def called() -> bool:
                return bool(
                    self._waiting or self._closed or self._flushes > flushes
                )

            self._changed.wait_for(called, seconds)
            return not (self._waiting or self._closed)

    def _left(self) -> float | None:
        """Returns the seconds that whoever waits has; None: as usual."""
        with self._changed:
            if self._deadline is None:
                return None
            return max(0.1, self._deadline - time.monotonic())
