"""Ends of a run other than its last step: preemption, rollback, divergence."""

import contextlib
from typing import NoReturn

from job import errors
from job.checkpoint.saver import AsyncSaver
from job.output.reporter import Reporter
from job.training.history import History, take_log
from job.training.shared_saver import SharedSaver
from job.training.state import TrainState
from job.training.supervisor import Supervisor

# Each rollback halves the learning rate, and this many are tried.
_ROLLBACK_FACTOR = 0.5
_MAX_ROLLBACKS = 3

# Upper bound for removing old checkpoints within the grace period; a later
# attempt can remove them as well.
_REMOVAL_SECONDS = 2.0

Saver = AsyncSaver | SharedSaver


class NonFiniteError(Exception):
    """A loss, gradient or weight is not finite.

    Attributes:
      subject: Description of the value, such as "the loss of step 7".
      step: Step that computed it.
    """

    def __init__(self, subject: str, step: int) -> None:
        super().__init__(f"{subject} is not finite")
        self.subject = subject
        self.step = step


def flush_and_exit(saver: Saver, supervisor: Supervisor) -> NoReturn:
    """Commits pending checkpoints within the grace period, then raises.

    Raises:
      PreemptedError: Always. A storage error becomes part of its message: the
        run shall be restarted (75), whatever the exit code of a bad disk.
    """
    try:
        saver.flush(timeout=supervisor.remaining_grace())
        saver.wait(min(supervisor.remaining_grace() / 2, _REMOVAL_SECONDS))
    except errors.StorageError as error:
        supervisor.note_error(error)
    supervisor.exit_preempted()


def await_saves(saver: Saver, supervisor: Supervisor) -> None:
    """Waits until every enqueued checkpoint is committed.

    Raises:
      PreemptedError: A stop was requested; the current state is not saved.
      StorageError: A checkpoint cannot be saved.
    """
    while not saver.wait(1.0):
        supervisor.beat("save")
        if supervisor.is_stopping():
            with contextlib.suppress(errors.StorageError):
                saver.flush(timeout=supervisor.remaining_grace())
            supervisor.exit_preempted()


def roll_back(
    error: NonFiniteError,
    *,
    state: TrainState,
    saver: Saver,
    history: History,
    supervisor: Supervisor,
    reporter: Reporter,
    on_nonfinite: str,
) -> int:
    """Restores the newest checkpoint with a lower learning rate.

    Apart from the learning rate this is the state that a restarted run would
    find. A kill before the next save therefore meets the same non-finite value
    and rolls back again.

    Args:
      error: Value that was not finite.
      state: Receives the checkpoint.
      saver: Saver of the run.
      history: Receives an entry in `rollbacks`.
      supervisor: Stop requests are honored while saves are pending.
      reporter: Drops the lines after the checkpoint, and informs the user.
      on_nonfinite: Policy: stop or rollback.

    Returns:
      The step of the restored checkpoint.

    Raises:
      DivergedError: The policy is to stop, no checkpoint exists, or the limit
        of rollbacks is reached.
    """
    rollbacks = history.rollbacks
    found = None
    if on_nonfinite == "rollback" and len(rollbacks) < _MAX_ROLLBACKS:
        await_saves(saver, supervisor)
        found = saver.restore_newest()
    if found is None:
        _raise_diverged(error, saver, history, supervisor, on_nonfinite)
    saved, tensors = found
    take_log(tensors)  # The file has these lines too.
    state.restore(tensors)
    factor = _ROLLBACK_FACTOR ** (len(rollbacks) + 1)
    state.learning_rate_factor.assign(factor)
    rollbacks.append(
        {"bad_step": error.step, "to_step": saved.step, "factor": factor}
    )
    reporter.log.rewind(saved.step)
    supervisor.note_restored(saved.step)
    reporter.message(
        f"{error.subject} is not finite: resuming from step {saved.step} with"
        f" {factor:g} times the learning rate (rollback {len(rollbacks)} of at"
        f" most {_MAX_ROLLBACKS})"
    )
    return saved.step


def _raise_diverged(
    error: NonFiniteError,
    saver: Saver,
    history: History,
    supervisor: Supervisor,
    on_nonfinite: str,
) -> NoReturn:
    """Raises DivergedError with what is saved and how to fix the run."""
    with contextlib.suppress(errors.StorageError):
        await_saves(saver, supervisor)
    newest = saver.committed_step
    kept = (
        f"the checkpoint of step {newest} is finite"
        if newest is not None
        else "no checkpoint had been saved"
    )
    tried = len(history.rollbacks)
    raise errors.DivergedError(
        f"{error.subject} is not finite"
        + (f" after {tried} rollbacks" if tried else "")
        + f"; {kept}. Fix: a lower --config.optimizer.peak_learning_rate or"
        " --config.optimizer.clip_norm=1.0, in a new workdir"
        + (
            "; or --config.checkpoint.on_nonfinite=rollback in this one"
            if on_nonfinite == "stop"
            else ""
        )
    )
