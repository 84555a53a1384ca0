"""The outer loop: train some steps on the device, log, evaluate, save.

The inner loop (`step.make_train_steps`) runs on the device and knows nothing of
files; this one knows when something is due, hears the wish to stop, and
touches the device only between two calls.

    plan = create_plan(num_images=50_000, ...)
    loop = Loop(plan=plan, state=state, train_steps=train_steps, ...)
    loop.run(until=plan.train_steps)
"""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from job import errors
from job.checkpoint.saver import AsyncSaver
from job.distribute.workers import Peers, SharedSaver
from job.output import metrics
from job.output.progress import Progress
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import LONG_SECONDS, Watchdog
from job.training import phases as phases_lib
from job.training import step
from job.training.evaluate import Evaluator, Scores
from job.training.history import History
from job.training.plan import Plan
from job.training.state import TrainState

# A call of the compiled loop is this long at most, so that a wish to stop is
# heard soon.
_CALL_SECONDS = 2.0

# A call that takes that many times as long as the ones before it hangs.
_HUNG_FACTOR = 10.0

# A rollback halves the rate, and so many are tried.
_ROLLBACK_FACTOR = 0.5
_MAX_ROLLBACKS = 3

# What is left of the grace for the last line, once all is saved or given up.
_LAST_LINE_SECONDS = 0.5

# Of the grace, at most, for removing old checkpoints; a later start can do it.
_TIDY_SECONDS = 2.0


class NonFiniteError(Exception):
    """A number of a step is not finite; the loop decides what follows."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} is not finite")
        self.what = what
        self.step = step


class _Clock:
    """Times the calls of the inner loop."""

    def __init__(self, global_batch_size: int) -> None:
        self._global_batch_size = global_batch_size
        self._calls: list[tuple[int, float]] = []
        self._line: tuple[int, float] = (0, 0.0)
        self._first: tuple[int, float] | None = None
        self._compiled = 0.0
        self._since = time.perf_counter()

    def start(self) -> None:
        """Begins to count the seconds that `take_seconds` returns."""
        self._since = time.perf_counter()

    def expect_compilation(self) -> None:
        """Says that the next call is the first one of another function."""
        self._compiled = self.compile_seconds
        self._first = None
        self._calls = []

    @contextlib.contextmanager
    def measure(self, steps: int) -> Iterator[None]:
        """Times a call that runs `steps` steps."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        if self._first is None:
            # Traces and compiles: not what a step costs.
            self._first = (steps, seconds)
            return
        self._calls = [*self._calls[-20:], (steps, seconds)]
        self._line = (self._line[0] + steps, self._line[1] + seconds)

    @property
    def step_seconds(self) -> float | None:
        """Median of the last calls; None until the second call is over."""
        if not self._calls:
            return None
        return statistics.median(
            seconds / steps for steps, seconds in self._calls
        )

    @property
    def rate(self) -> float:
        """Images a second of the last calls; of the first, compilation too."""
        steps, seconds = self._first or (1, 1.0)
        return self._global_batch_size / (self.step_seconds or seconds / steps)

    @property
    def called(self) -> bool:
        """Whether the first call is over."""
        return self._first is not None

    def expect(self, steps: int) -> float:
        """Returns the most seconds that a call may take; it hangs if longer."""
        if not self.called:
            return LONG_SECONDS
        return _HUNG_FACTOR * steps * self._global_batch_size / self.rate

    @property
    def compile_seconds(self) -> float:
        """Of first calls, what they took longer than their steps take."""
        steps, seconds = self._first or (0, 0.0)
        extra = max(0.0, seconds - steps * (self.step_seconds or 0.0))
        return round(self._compiled + extra, 3)

    def steps_in(self, seconds: float) -> int:
        """Returns how many steps fit into `seconds`; 1 at the start."""
        return (
            max(1, int(seconds / self.step_seconds)) if self.step_seconds else 1
        )

    def take_rate(self) -> float:
        """Returns the images a second since the last call of this."""
        steps, seconds = self._line
        self._line = (0, 0.0)
        rate = steps * self._global_batch_size / seconds if steps else self.rate
        return round(rate, 1)

    def take_seconds(self) -> float:
        """Returns all seconds since the last call of this."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return round(seconds, 3)


def _no_steps(batches: Iterator[Any], count: tf.Tensor) -> None:
    raise RuntimeError("no phase has been entered")


@dataclasses.dataclass
class Loop:
    """The outer loop, and what it holds.

    Attributes:
      make_batches: the step to begin with -> endless iterator over
        `TrainBatch`.
      on_nonfinite: stop or rollback; see `configs/default.py`.
      tta: score the mirror images too at the end.
      tflop: steps done -> what they cost, in 10^12 operations.
      peers: the other workers, if any; all run this loop, in step.
    """

    plan: Plan
    state: TrainState
    train_steps: Callable[[phases_lib.Phase], step.TrainSteps]
    make_batches: Callable[[int], Any]
    evaluator: Evaluator
    split: str
    saver: AsyncSaver | SharedSaver
    history: History
    log: metrics.MetricsLog
    progress: Progress
    stop: StopRequest
    watchdog: Watchdog = dataclasses.field(default_factory=Watchdog)
    on_nonfinite: str = "stop"
    tta: bool = False
    tflop: Callable[[int], float] = lambda done: 0.0
    peers: Peers = dataclasses.field(default_factory=Peers)

    def __post_init__(self) -> None:
        self._clock = _Clock(self.plan.global_batch_size)
        self._phase: phases_lib.Phase | None = None
        self._final: Scores | None = None
        self._train_steps: step.TrainSteps = _no_steps
        self._batches = self.make_batches(self.history.step)
        self._handed_over = self.history.step
        self._saved_at = time.monotonic()
        if self.peers.is_chief:
            self.stop.note_saved(self.history.step)

    def run(self, *, until: int) -> None:
        """Trains up to a step: calls of the inner loop, and what is due.

        Raises:
          PreemptedError: the process was told to stop; saved at the step it was
            at.
          DivergedError: a loss or gradient is not finite, and no rollback
            helped.
        """
        plan, clock = self.plan, self._clock
        done = int(self.state.step.numpy())
        clock.start()
        if self.on_nonfinite == "rollback":
            if self.saver.committed_step is None:
                self.save(done)  # There is always something to go back to.
        if done and plan.due(plan.evaluate_every_steps, done):
            self.write_evaluation_line(done)
        while done < until:
            try:
                self.obey_stop(done)
                done = self.train(done, until)
                self.do_what_is_due(done)
            except NonFiniteError as error:
                done = self.roll_back(error)
        self.history.train_seconds += clock.take_seconds()

    def train(self, done: int, until: int) -> int:
        """Calls the inner loop once; returns the steps done."""
        plan, clock = self.plan, self._clock
        self.enter_phase(plan.phase(done))
        count = min(
            # By the chief's clock: a call must be as long on all workers.
            plan.steps_per_call
            or self.peers.chiefs(clock.steps_in(_CALL_SECONDS)),
            plan.steps_to_boundary(done),
            until - done,
        )
        if not clock.called:
            count = 1  # It compiles; its time says what a step takes at most.
        self.watchdog.beat("train", done, seconds=clock.expect(count))
        with clock.measure(count):
            self._train_steps(self._batches, tf.constant(count))
            self.state.step.numpy()  # Waits for the device.
        self.check_health(done + count)
        return done + count

    def enter_phase(self, phase: phases_lib.Phase) -> None:
        """Has the phase's step at hand, compiled by its first call."""
        if phase == self._phase:
            return
        self._phase, self._train_steps = phase, self.train_steps(phase)
        self._clock.expect_compilation()
        if len(self.plan.phases) > 1:
            self.progress.line(
                f"from step {phase.first_step}: {phase.input_size} px, training"
                f" {', '.join(sorted(phase.trainable_blocks))}"
            )

    def do_what_is_due(self, done: int) -> None:
        """Logs, evaluates and saves, each if it is due."""
        plan = self.plan
        if plan.due(plan.log_every_steps, done):
            self.write_train_line(done)
        else:
            self.show(done)
        if plan.due(plan.evaluate_every_steps, done):
            self.write_evaluation_line(done)
        if plan.due(plan.checkpoint_every_steps, done) and self.is_worth_it(
            done
        ):
            self.save(done)

    def is_worth_it(self, done: int) -> bool:
        """Says whether a save that is due need not wait for a later one."""
        scored, _ = self.history.validation or (None, None)
        # What was scored may be the best, which is kept.
        if done in (scored, self.plan.train_steps):
            return True
        age = time.monotonic() - self._saved_at
        return bool(self.peers.chiefs(age >= self.plan.checkpoint_seconds))

    def obey_stop(self, done: int) -> None:
        """Saves and raises PreemptedError if the process was told to stop."""
        self.saver.check()
        if not self.peers.any(self.stop.requested):
            return
        self.stop.ask("another worker's signal")
        if done > self._handed_over:
            self.save(done)
        try:
            self.saver.flush(timeout=self.claim_grace())
            self.saver.wait(min(self.claim_grace() / 2, _TIDY_SECONDS))
        except errors.StorageError as error:
            # It shall start again: 75, not the exit code of a bad disk.
            self.stop.saved += f"; {error}"
        self.part()

    def part(self) -> None:
        """Ends this start, and those of the other workers, as preempted."""
        self.stop.saved = self.peers.broadcast_json(self.stop.saved)
        self.peers.part()
        self.stop.check()

    def claim_grace(self) -> float:
        """Returns the seconds left to a process that was told to stop.

        The watchdog lets it have them.
        """
        left = self.stop.remaining() - _LAST_LINE_SECONDS
        left = min(max(left, 0.0), LONG_SECONDS)
        self.watchdog.beat("save", seconds=left + LONG_SECONDS)
        return left

    def finish(self, done: int) -> None:
        """Returns when all that was saved is committed."""
        while not self.saver.wait(1.0):
            self.obey_stop(done)
            self.watchdog.beat("save", done)

    def check_health(self, done: int) -> None:
        """Raises if a number was not finite or steps were miscounted."""
        bad = int(self.state.first_bad_step.numpy())
        if bad >= 0:
            raise NonFiniteError(f"the loss or a gradient of step {bad}", bad)
        counted = int(self.state.step.numpy())
        if counted != done:
            raise RuntimeError(f"{counted} steps were counted, not {done}")

    def roll_back(self, error: "NonFiniteError") -> int:
        """Goes back to the newest checkpoint, with a lower rate.

        Returns:
          The step of that checkpoint. It is what a start that resumed there
          would find, but for the rate: a kill before the next save is met by
          the same bad number and the same rollback.

        Raises:
          DivergedError: the policy is to stop, or it was tried often enough.
        """
        rollbacks = self.history.rollbacks
        if self.on_nonfinite != "rollback" or len(rollbacks) >= _MAX_ROLLBACKS:
            self.end_diverged(error.what)
        self.await_saves()
        found = self.saver.restore_newest()
        if found is None:  # Somebody removed what was saved at the start.
            self.end_diverged(error.what)
        saved, tensors = found
        self.state.restore(tensors)
        factor = _ROLLBACK_FACTOR ** (len(rollbacks) + 1)
        self.state.learning_rate_factor.assign(factor)
        rollbacks.append(
            {"bad_step": error.step, "to_step": saved.step, "factor": factor}
        )
        self._batches = self.make_batches(saved.step)
        self.log.rewind(saved.step)
        self._handed_over = saved.step
        if self.peers.is_chief:
            self.stop.note_saved(saved.step)
        self.progress.line(
            f"{error.what} is not finite: back to step {saved.step}, from there"
            f" with {factor:g} times the learning rate (rollback"
            f" {len(rollbacks)} of at most {_MAX_ROLLBACKS})"
        )
        return saved.step

    def await_saves(self) -> None:
        """Returns when all that was handed over is committed.

        Raises:
          PreemptedError: told to stop; what is now in the state is not saved.
          StorageError: it cannot be.
        """
        while not self.saver.wait(1.0):
            self.watchdog.beat("save")
            if self.peers.any(self.stop.requested):
                self.stop.ask("another worker's signal")
                with contextlib.suppress(errors.StorageError):
                    self.saver.flush(timeout=self.claim_grace())
                self.part()

    def end_diverged(self, what: str) -> NoReturn:
        """Raises DivergedError, saying what is left and what would help."""
        with contextlib.suppress(errors.StorageError):
            self.await_saves()
        newest = self.saver.committed_step
        kept = (
            f"the checkpoint of step {newest} is finite"
            if newest is not None
            else "nothing had been saved"
        )
        tried = len(self.history.rollbacks)
        raise errors.DivergedError(
            f"{what} is not finite"
            + (f" after {tried} rollbacks" if tried else "")
            + f"; {kept}; what usually helps, in a new workdir, is a lower"
            " --config.optimizer.peak_learning_rate or"
            " --config.optimizer.clip_norm=1.0"
            + (
                ", or in this one --config.checkpoint.on_nonfinite=rollback"
                if self.on_nonfinite == "stop"
                else ""
            )
        )

    def window(self) -> tuple[float, float]:
        """Returns mean loss and accuracy, 0 to 1, since the last line."""
        sums = {name: float(v.numpy()) for name, v in self.state.window.items()}
        steps = max(1.0, sums["steps"])
        return (
            sums["loss"] / steps,
            sums["correct"] / (steps * self.plan.global_batch_size),
        )

    def show(self, done: int) -> None:
        """Moves the bar within a line's steps."""
        loss, accuracy = self.window()
        rate = self._clock.rate
        self.progress.update(
            done, loss=loss, accuracy=accuracy, images_per_second=rate
        )

    def write_train_line(self, done: int) -> None:
        """Records the steps since the last line, and starts a new one."""
        loss, accuracy = self.window()
        rate = self._clock.take_rate()
        learning_rate = float(self.plan.learning_rate(tf.constant(done - 1)))
        learning_rate *= float(self.state.learning_rate_factor.numpy())
        for variable in self.state.window.values():
            variable.assign(0.0)
        self.log.write(
            {
                "step": done,
                "epoch": self.plan.epoch(done),
                "split": "train",
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": learning_rate,
                "images_per_second": rate,
                "train_tflop": round(self.tflop(done), 3),
            }
        )
        self.progress.update(
            done, loss=loss, accuracy=accuracy, images_per_second=rate
        )
        if self.progress.quiet:
            self.progress.line(
                f"step {done}/{self.plan.train_steps} epoch"
                f" {self.plan.epoch(done):.2f} train loss {loss:.4f} accuracy"
                f" {accuracy:.4f} learning_rate {learning_rate:.4g} images/s"
                f" {rate:.0f}"
            )

    def write_evaluation_line(self, done: int) -> None:
        """Scores the weights as they are now; records it, if it is not yet.

        Told to stop meanwhile, it saves and leaves the line to the next start,
        which finds it missing.
        """
        if self.log.has(done, self.split):
            return
        start = time.perf_counter()
        last = done == self.plan.train_steps
        scores = self.score(done, tta=last and self.tta)
        if last:
            self._final = scores
        shown = scores.images * (1 if scores.accuracy_tta is None else 2)
        rate = shown / (time.perf_counter() - start)
        if self.split == "validation":
            self.history.validation = (done, scores.accuracy)
        self.log.write(
            {
                "step": done,
                "epoch": self.plan.epoch(done),
                "split": self.split,
                "loss": scores.loss,
                "accuracy": scores.accuracy,
                "learning_rate": None,
                "images_per_second": round(rate, 1),
                "train_tflop": round(self.tflop(done), 3),
            }
        )
        self.progress.line(
            f"step {done}/{self.plan.train_steps} epoch"
            f" {self.plan.epoch(done):.2f} {self.split} loss {scores.loss:.4f}"
            f" accuracy {scores.accuracy:.4f}"
        )

    def final_scores(self) -> Scores:
        """Returns the scores of the last step, made once.

        An earlier start may have written their line, and no result.
        """
        if self._final is None:
            self._final = self.score(self.plan.train_steps, tta=self.tta)
        return self._final

    def score(self, done: int, *, tta: bool = False) -> Scores:
        """Scores the weights as they are now, ready to stop at any time."""

        def poll() -> None:
            self.obey_stop(done)
            seconds = LONG_SECONDS if next(calls) == 0 else 0.0
            self.watchdog.beat("evaluate", done, seconds=seconds)

        calls = itertools.count()  # The first one may compile.
        return self.evaluator(self.state.evaluated(), tta=tta, poll=poll)

    def save(self, done: int) -> None:
        """Hands a checkpoint over, with all lines of the record up to it.

        Raises:
          NonFiniteError: a variable is not finite; nothing is written then.
        """
        self.watchdog.beat("save", done)
        tensors = self.state.snapshot()
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise NonFiniteError(f"{name} at step {done}", done)
        self.history.train_seconds += self._clock.take_seconds()
        self.history.compile_seconds = self._clock.compile_seconds
        self.log.sync()
        replicas = self.state.step.distribute_strategy.num_replicas_in_sync
        run = self.history.to_manifest(done, replicas, self.log.lines())
        self.saver.save(done, tensors, run)
        self._handed_over = done
        self._saved_at = time.monotonic()
