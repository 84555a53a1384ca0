"""Saver of a run with several workers, in which only the chief writes."""

from typing import Any

import numpy as np

from job.checkpoint.format import Header
from job.checkpoint.saver import AsyncSaver
from job.checkpoint.store import CheckpointStore
from job.distribute.workers import Workers
from job.supervision.preemption import StopRequest
from job.training.history import History


class SharedSaver:
    """Saver of the chief, with equal results on all workers.

    It has the methods of `AsyncSaver`. Results and errors of the methods that
    wait are equal on all workers. Workers other than the chief save nothing.
    """

    def __init__(
        self,
        workers: Workers,
        saver: AsyncSaver | None,
        *,
        committed_step: int | None,
    ) -> None:
        """Shares the chief's saver.

        Args:
          workers: Workers of the run.
          saver: Saver of the chief. None on the other workers.
          committed_step: Step of the restored checkpoint. If None, no
            checkpoint was restored.
        """
        self._workers = workers
        self._saver = saver
        self._committed = committed_step

    @property
    def committed_step(self) -> int | None:
        """Returns the newest committed step on all workers, or None."""
        return self._committed

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> None:
        """Enqueues a checkpoint on the chief."""
        if self._saver:
            self._saver.save(step, tensors, run)

    def check(self) -> None:
        """Raises the error that ended saving, on the chief only."""
        if self._saver:
            self._saver.check()

    def wait(self, seconds: float) -> bool:
        """Waits and returns whether all saves and removals are complete.

        Args:
          seconds: Time limit in seconds.
        """

        def wait() -> list[Any]:
            assert self._saver
            return [self._saver.wait(seconds), self._saver.committed_step]

        is_idle, self._committed = self._workers.run_on_chief(wait)
        return is_idle

    def flush(self, timeout: float | None = None) -> int | None:
        """Waits until every enqueued checkpoint is committed.

        Args:
          timeout: Time limit in seconds. If None, without limit.

        Returns:
          The newest committed step, or None.
        """
        self._committed = self._workers.run_on_chief(
            lambda: self._saver.flush(timeout) if self._saver else None
        )
        return self._committed

    def restore_newest(
        self,
    ) -> tuple[Header, dict[str, np.ndarray]] | None:
        """Returns the newest checkpoint, which the chief restores."""
        tensors: dict[str, np.ndarray] = {}

        def restore() -> tuple[int, dict[str, Any]] | None:
            assert self._saver
            found = self._saver.restore_newest()
            if found is None:
                return None
            tensors.update(found[1])
            return found[0].step, found[0].run

        found = self._workers.run_on_chief(restore)
        if found is None:
            return None
        header = Header(*found)
        self._committed = header.step
        return header, self._workers.broadcast_arrays(tensors)

    def __enter__(self) -> "SharedSaver":
        if self._saver:
            self._saver.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._saver:
            self._saver.__exit__(*error)


def create_saver(
    checkpoints: CheckpointStore,
    workers: Workers,
    history: History,
    stop: StopRequest,
) -> AsyncSaver | SharedSaver:
    """Returns the saver of a run, in which only the chief writes.

    Args:
      checkpoints: Checkpoints of the run.
      workers: Workers of the run.
      history: Earlier attempts of the run.
      stop: Stop request, in which each commit is recorded.
    """
    saver = None
    committed_step = history.step if history.resumes else None
    if workers.is_chief:
        saver = AsyncSaver(
            checkpoints,
            committed_step=committed_step,
            on_commit=stop.note_saved,
        )
        if workers.count == 1:
            return saver
    return SharedSaver(workers, saver, committed_step=committed_step)
