"""Preemption, rollback and divergence of a run."""

import contextlib
from typing import NoReturn

from job import errors
from job.checkpoint.saver import AsyncSaver
from job.output.reporter import Reporter
from job.training.history import History, pop_metrics
from job.training.shared_saver import SharedSaver
from job.training.state import TrainState
from job.training.supervisor import Supervisor

# Maximum number of rollbacks, each of which halves the learning rate.
_ROLLBACK_FACTOR = 0.5
_MAX_ROLLBACKS = 3

# Time limit for the removal of old checkpoints within the grace period. A later
# attempt can remove them too.
_REMOVAL_SECONDS = 2.0

Saver = AsyncSaver | SharedSaver


class NonFiniteError(Exception):
    """Error for a loss, gradient or weight that is not finite.

    Attributes:
      subject: Description of the value, such as "the loss of step 7".
      step: Step of the value.
    """

    def __init__(self, subject: str, step: int) -> None:
        super().__init__(f"{subject} is not finite")
        self.subject = subject
        self.step = step


def flush_and_exit(saver: Saver, supervisor: Supervisor) -> NoReturn:
    """Commits pending checkpoints within the grace period, then exits.

    A storage error is added to the message and does not change the exit code,
    because a restart may succeed.

    Raises:
      PreemptedError: The function always raises it.
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
      PreemptedError: A stop was requested. The current state is not saved.
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

    Apart from the learning rate the result is the state of a restarted run.
    After a kill before the next save, the run therefore meets the same
    non-finite value and rolls back again.

    Args:
      error: Value that is not finite.
      state: Variables to restore.
      saver: Saver of the run.
      history: Metadata of the run, which gets an entry in `rollbacks`.
      supervisor: Source of stop requests while saves are pending.
      reporter: Reporter of the run, which drops the lines after the checkpoint.
      on_nonfinite: Policy, stop or rollback.

    Returns:
      The step of the restored checkpoint.

    Raises:
      DivergedError: The policy is stop, no checkpoint exists, or the maximum
        number of rollbacks is reached.
    """
    rollbacks = history.rollbacks
    found = None
    if on_nonfinite == "rollback" and len(rollbacks) < _MAX_ROLLBACKS:
        await_saves(saver, supervisor)
        found = saver.restore_newest()
    if found is None:
        _raise_diverged(error, saver, history, supervisor, on_nonfinite)
    saved, tensors = found
    pop_metrics(tensors)  # metrics.jsonl has these lines too.
    state.restore(tensors)
    factor = _ROLLBACK_FACTOR ** (len(rollbacks) + 1)
    state.learning_rate_factor.assign(factor)
    rollbacks.append(
        {"bad_step": error.step, "to_step": saved.step, "factor": factor}
    )
    reporter.log.rewind(saved.step)
    supervisor.note_restored(saved.step)
    reporter.message(
        f"Resuming from step {saved.step} with {factor:g} times the learning"
        f" rate, because {error.subject} is not finite (rollback"
        f" {len(rollbacks)} of at most {_MAX_ROLLBACKS})"
    )
    return saved.step


def _raise_diverged(
    error: NonFiniteError,
    saver: Saver,
    history: History,
    supervisor: Supervisor,
    on_nonfinite: str,
) -> NoReturn:
    """Raises DivergedError with the newest checkpoint and the fix."""
    with contextlib.suppress(errors.StorageError):
        await_saves(saver, supervisor)
    newest = saver.committed_step
    kept = (
        f"the checkpoint of step {newest} is finite"
        if newest is not None
        else "no checkpoint was saved"
    )
    tried = len(history.rollbacks)
    raise errors.DivergedError(
        f"{error.subject} is not finite"
        + (f" after {tried} rollbacks" if tried else "")
        + f"; {kept}. Fix: lower --config.optimizer.peak_learning_rate or set"
        " --config.optimizer.clip_norm=1.0, in a new workdir"
        + (
            ", or set --config.checkpoint.on_nonfinite=rollback in this one"
            if on_nonfinite == "stop"
            else ""
        )
    )
