"""Stop requests, watchdog and workers as one object for the loop.

    supervisor = Supervisor(stop, watchdog)
    supervisor.workers = workers            # once they are connected
    supervisor.beat("train", step, seconds=20.0)
    if supervisor.is_stopping():            # on any worker
        ...                                 # save
        supervisor.exit_preempted()         # raises on all workers

All workers call the same methods in the same order.
"""

from typing import NoReturn

from job import errors
from job.distribute.workers import Workers
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import LONG_SECONDS, Watchdog

# Part of the grace period that is reserved for the last line.
_LAST_LINE_SECONDS = 0.5


class Supervisor:
    """Stop requests, watchdog and workers of a run.

    Attributes:
      stop: Stop request of this process.
      watchdog: Watchdog of this process.
      workers: Workers of the run.
    """

    def __init__(
        self,
        stop: StopRequest,
        watchdog: Watchdog | None = None,
    ) -> None:
        """Combines both, for a run of a single worker.

        Args:
          stop: Stop request of this process.
          watchdog: Watchdog of this process. If None, a hang is not detected.
        """
        self.stop = stop
        self.watchdog = watchdog or Watchdog(0.0)
        self.workers = Workers()

    def beat(
        self, phase: str, step: int | None = None, *, seconds: float = 0.0
    ) -> None:
        """Reports progress to the watchdog.

        Args:
          phase: Name of the work that begins now.
          step: Number of completed steps. If None, unknown.
          seconds: Time limit until the next beat in seconds. If 0.0, the
            default of the watchdog.
        """
        self.watchdog.beat(phase, step, seconds=seconds)

    def poll(self, phase: str = "data") -> None:
        """Reports progress, or exits on a stop request.

        It is for work before the loop, such as reading and downloading data.

        Args:
          phase: Name of the work that begins now.

        Raises:
          PreemptedError: A stop was requested.
        """
        self.stop.check()
        self.beat(phase, seconds=LONG_SECONDS)

    def is_stopping(self) -> bool:
        """Returns whether a stop was requested on any worker."""
        if not self.workers.any(self.stop.requested):
            return False
        self.stop.ask("another worker's signal")
        return True

    def remaining_grace(self) -> float:
        """Returns the seconds left for a save and extends the watchdog."""
        left = self.stop.remaining() - _LAST_LINE_SECONDS
        left = min(max(left, 0.0), LONG_SECONDS)
        self.beat("save", seconds=left + LONG_SECONDS)
        return left

    def note_restored(self, step: int) -> None:
        """Sets the step that the last line of a preempted run reports."""
        if self.workers.is_chief:
            self.stop.note_restored(step)

    def note_error(self, error: errors.JobError) -> None:
        """Adds an error to the last line of a preempted run."""
        self.stop.last_line += f"; {error}"

    def exit_preempted(self) -> NoReturn:
        """Raises PreemptedError on all workers with the chief's last line."""
        self.stop.last_line = self.workers.broadcast_json(self.stop.last_line)
        self.workers.barrier()
        self.stop.check()
        raise AssertionError("exit_preempted was called without a stop request")
