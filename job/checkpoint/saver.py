"""Asynchronous saver of checkpoints, a thread that writes during training.

    saver = AsyncSaver(store)
    saver.save(step, tensors, run)       # returns immediately
    saver.check()                        # raises the error that ended saving
    saver.flush(timeout=20.0)            # returns the newest committed step

At most one checkpoint is being written and one is pending. If the store is
slow, a newer checkpoint replaces the pending one, so that at most two snapshots
are held. An outage of an hour costs neither steps nor memory. A failed save is
logged immediately. A transient failure is retried at growing intervals until a
newer checkpoint replaces it or the patience ends. After that, or after a
permanent failure, the next call of any method raises the error. Imports no
TensorFlow.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint.format import Header
from job.checkpoint.store import CheckpointStore

# Name of the thread that saves.
THREAD = "checkpoints"

# Time that training continues without a save while the store does not answer.
_PATIENCE_SECONDS = 3600.0
# Limit for the requests of one try, after which the outage is logged.
_TRY_SECONDS = 30.0
# Wait before a retry, doubled up to the longest.
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
# Duration from which a save is slow. Until then the loop waits for it rather
# than drop the pending checkpoint.
_SLOW_SECONDS = 2.0
# Time that the current save gets to finish after an unexpected exception.
_LAST_SECONDS = 30.0


# A checkpoint that is pending or being written: its step, tensors and resume
# metadata.
_Snapshot = tuple[int, dict[str, np.ndarray], dict[str, Any]]


class AsyncSaver:
    """Saver that writes checkpoints in a thread."""

    def __init__(
        self,
        store: CheckpointStore,
        *,
        committed_step: int | None = None,
        on_commit: Callable[[int], None] = lambda step: None,
        patience_seconds: float = _PATIENCE_SECONDS,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
        slow_seconds: float = _SLOW_SECONDS,
    ) -> None:
        """Starts the thread, a daemon.

        Args:
          store: Store of the checkpoints, used for saving by this saver only.
          committed_step: Step of the checkpoint that the run resumed from, if
            any.
          on_commit: Function that the thread calls with each committed step.
          patience_seconds: Time since the last success after which an outage of
            the store ends the run.
          first_wait_seconds: Wait before the first retry of a save, doubled for
            each further one.
          slow_seconds: Duration of a save after which a newer checkpoint
            replaces the pending one.
        """
        self._store = store
        self._on_commit = on_commit
        self._patience = patience_seconds
        self._first_wait = first_wait_seconds
        self._slow = slow_seconds
        self._changed = threading.Condition()
        # All attributes below are guarded by `_changed`.
        self._committed = committed_step
        self._running: _Snapshot | None = None
        self._tidying = False
        # Time when the running save began, or is to begin.
        self._since = 0.0
        self._waiting: _Snapshot | None = None
        self._fatal: Exception | None = None
        self._last_error: errors.StorageError | None = None
        self._failing_since: float | None = None
        # Number of flush() calls, and the deadline of the current one.
        self._flushes = 0
        self._deadline: float | None = None
        self._closed = False
        self._commits: list[tuple[int, float]] = []
        self._thread = threading.Thread(
            target=self._run, name=THREAD, daemon=True
        )
        self._thread.start()

    @property
    def committed_step(self) -> int | None:
        """Step of the newest committed checkpoint, or None."""
        with self._changed:
            return self._committed

    @property
    def commits(self) -> list[tuple[int, float]]:
        """Size in bytes and duration in seconds of each committed save."""
        with self._changed:
            return [*self._commits]

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> None:
        """Enqueues a checkpoint, whose arrays must not change afterwards.

        The arguments are those of `CheckpointStore.save`.

        Raises:
          JobError: Saving has ended; see `check`.
        """
        self.check()
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting or self._failing_since,
                max(0.0, self._since + self._slow - time.monotonic()),
            )
            if self._waiting:
                logging.warning(
                    "Dropped the pending checkpoint of step %d in favor of"
                    " step %d, because the storage is slow",
                    self._waiting[0],
                    step,
                )
            # The time starts with the first checkpoint that waits for garbage
            # collection. Otherwise each newer one would wait for the full time.
            if not self._running and not self._waiting:
                self._since = time.monotonic()
            self._waiting = (step, tensors, run)
            self._changed.notify_all()

    def check(self) -> None:
        """Raises the error that ended saving, if any.

        Raises:
          LostRaceError: Another process trains this run.
          StorageError: The storage cannot be written to.
        """
        with self._changed:
            if self._fatal:
                raise self._fatal

    def wait(self, seconds: float) -> bool:
        """Waits and returns whether all saves and garbage collection are done.

        Args:
          seconds: Maximum wait in seconds.

        Raises:
          JobError: Saving has ended; see `check`.
        """
        with self._changed:
            self._changed.wait_for(self._is_idle, seconds)
            if self._fatal:
                raise self._fatal
            return self._is_idle()

    def flush(self, timeout: float | None = None) -> int | None:
        """Waits until every enqueued checkpoint is committed.

        Args:
          timeout: Maximum wait in seconds, even if an upload hangs. If None,
            the wait ends with the patience and includes garbage collection.

        Returns:
          Newest committed step. None if no checkpoint was committed.

        Raises:
          LostRaceError: Another process trains this run.
          StorageError: A checkpoint was not committed.
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
            if late := self._pending():
                cause = f": {self._last_error}" if self._last_error else ""
                raise errors.UnavailableError(
                    f"the checkpoint of step {late[0]} was not committed within"
                    f" {timeout:.1f} s{cause}"
                )
            return self._committed

    def restore_newest(
        self,
    ) -> tuple[Header, dict[str, np.ndarray]] | None:
        """Returns the newest checkpoint after committing all enqueued ones.

        Raises:
          JobError: A checkpoint was not committed or cannot be restored; see
            `flush` and `CheckpointStore.restore_newest`.
        """
        self.flush()
        found = self._store.restore_newest()
        with self._changed:
            self._committed = found[0].step if found else None
        return found

    def close(self) -> None:
        """Drops the pending checkpoint and ends the thread when it is idle."""
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()

    def __enter__(self) -> "AsyncSaver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: Any) -> None:
        # The raiser of a JobError has already waited for the save.
        if kind is None or not issubclass(kind, errors.JobError):
            with contextlib.suppress(errors.JobError):
                self.wait(_LAST_SECONDS)
        self.close()

    def _is_idle(self) -> bool:
        return not (self._pending() or self._tidying)

    def _pending(self) -> _Snapshot | None:
        return None if self._fatal else self._waiting or self._running

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._running, self._waiting = self._waiting, None
                self._since = time.monotonic()
                snapshot = self._running
                self._changed.notify_all()
            try:
                if self._save(*snapshot):
                    self._tidy(snapshot[0])
            except Exception as error:
                # Every error is raised in the loop, not in this thread.
                logging.error("Stopped saving checkpoints: %s", error)
                with self._changed:
                    self._fatal = error
                    # It must not be committed, as another process may be ahead.
                    self._waiting = None
                return
            finally:
                with self._changed:
                    self._running = None
                    self._tidying = False
                    self._changed.notify_all()
            del snapshot  # Frees its memory while this thread waits.

    def _tidy(self, step: int) -> None:
        """Deletes old checkpoints, while a flush with a timeout can return."""
        with self._changed:
            self._running = None
            self._tidying = True
            self._changed.notify_all()
        self._store.tidy(step)

    def _save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> bool:
        """Commits a checkpoint, or returns False if a newer one replaces it."""
        begun = time.monotonic()
        content = self._store.encode(step, tensors, run)
        waits = itertools.count()
        while True:
            with self._changed:
                flushes = self._flushes
            try:
                self._store.commit(step, content, timeout=self._left())
                break
            except errors.UnavailableError as error:
                wait = self._first_wait * 2 ** min(next(waits), 16)
                if not self._wait(error, wait, flushes):
                    return False
        self._on_commit(step)
        with self._changed:
            if self._failing_since:
                logging.info("Saved the checkpoint of step %d", step)
            self._failing_since = None
            self._last_error = None
            self._committed = step
            size = sum(len(piece) for piece in content)
            self._commits.append((size, time.monotonic() - begun))
        return True

    def _wait(
        self, error: errors.StorageError, seconds: float, flushes: int
    ) -> bool:
        """Waits for the next try and returns whether to make one.

        Args:
          error: Error of the last try, raised if the patience has ended.
          seconds: Maximum wait in seconds.
          flushes: Number of flush() calls when the last try began.
        """
        now = time.monotonic()
        with self._changed:
            self._last_error = error
            self._failing_since = self._failing_since or now
            self._changed.notify_all()
            if now - self._failing_since > self._patience:
                raise error
            longest = (
                _LONGEST_WAIT_SECONDS
                if self._deadline is None
                else self._first_wait
            )
            seconds = min(seconds, longest)
            logging.warning("Retrying in %.0f s: %s", seconds, error)
            self._changed.wait_for(
                lambda: (
                    self._waiting or self._closed or self._flushes > flushes
                ),
                seconds,
            )
            return not (self._waiting or self._closed)

    def _left(self) -> float:
        """Returns the limit of the next try's requests, in seconds."""
        with self._changed:
            if self._deadline is None:
                return _TRY_SECONDS
            left = self._deadline - time.monotonic()
            return min(max(0.1, left), _TRY_SECONDS)
