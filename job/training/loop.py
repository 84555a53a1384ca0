"""Outer loop of a run, which trains, logs, evaluates and saves.

The inner loop (`step.make_train_steps`) runs on the device. Between its calls
the outer loop runs the actions that are due and polls for stop requests.

    loop = Loop(plan=plan, state=state, training=training, ...)
    loop.run(until=plan.train_steps)
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from job.output.reporter import Reporter
from job.output.results import Scores
from job.supervision.watchdog import LONG_SECONDS
from job.training import phases as phases_lib
from job.training import recovery
from job.training.clock import Clock
from job.training.evaluate import Evaluator
from job.training.history import METRICS_TENSOR, History, pack_metrics
from job.training.plan import Plan
from job.training.recovery import NonFiniteError, Saver
from job.training.state import TrainState
from job.training.step import TrainSteps
from job.training.supervisor import Supervisor

# Longest call of the compiled loop, which delays the response to a stop.
_CALL_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Training:
    """Compiled steps of a run and their input.

    Attributes:
      make_train_steps: Function from a phase to its compiled training steps.
      make_batches: Function from a first step to an endless iterator over
        `TrainBatch`.
      tflop: Function from a number of completed steps to their cost, in 10^12
        floating-point operations.
    """

    make_train_steps: Callable[[phases_lib.Phase], TrainSteps]
    make_batches: Callable[[int], Any]
    tflop: Callable[[int], float] = lambda step: 0.0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation of a run.

    Attributes:
      evaluator: Evaluator of the split.
      split: Name of the split, test or validation.
      tta: Whether the last evaluation also uses flip TTA.
    """

    evaluator: Evaluator
    split: str = "test"
    tta: bool = False


class Loop:
    """Outer loop of a run.

    Attributes:
      plan: Length and intervals of the run, in steps.
      state: Variables of the run.
      step: Number of completed steps.
      train_steps: Compiled steps of the current phase. None before the first
        phase.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        state: TrainState,
        training: Training,
        evaluation: Evaluation,
        saver: Saver,
        history: History,
        reporter: Reporter,
        supervisor: Supervisor,
        on_nonfinite: str = "stop",
        on_call: "Callable[[Loop], None]" = lambda loop: None,
    ) -> None:
        """Creates the loop without compiling or training.

        Args:
          plan: Length and intervals of the run, in steps.
          state: Variables of the run, already restored or initialized.
          training: Compiled steps and their input.
          evaluation: Evaluation of the run.
          saver: Saver of checkpoints.
          history: Earlier attempts of the run.
          reporter: Metrics log and progress display.
          supervisor: Stop requests, watchdog and workers.
          on_nonfinite: Policy, stop or rollback; see `configs/default.py`.
          on_call: Function called with this loop at the start and after each
            call of the compiled steps. It may change the state or request a
            stop.
        """
        self.plan = plan
        self.state = state
        self.step = int(state.step.numpy())
        self.train_steps: TrainSteps | None = None
        self._training = training
        self._evaluation = evaluation
        self._saver = saver
        self._history = history
        self._reporter = reporter
        self._supervisor = supervisor
        self._on_nonfinite = on_nonfinite
        self._on_call = on_call
        self._clock = Clock(plan.global_batch_size)
        self._phase: phases_lib.Phase | None = None
        self._final: Scores | None = None
        self._batches = training.make_batches(history.step)
        # Step and time of the newest enqueued checkpoint.
        self._saved_step = history.step
        self._saved_at = time.monotonic()
        supervisor.note_restored(history.step)

    @property
    def compile_seconds(self) -> float:
        """Returns the compile time of all phases so far, in seconds."""
        return self._clock.compile_seconds

    def run(self, *, until: int) -> None:
        """Trains up to a step and runs each action when it is due.

        Args:
          until: Number of steps after which to return.

        Raises:
          PreemptedError: A stop was requested. The current step is saved.
          DivergedError: A loss, gradient or weight is not finite, in spite of
            any rollbacks.
        """
        self.step = int(self.state.step.numpy())
        self._clock.start()
        if self._on_nonfinite == "rollback":
            if self._saver.committed_step is None:
                self._save_start()
        if self.step and self.plan.due(
            self.plan.evaluate_every_steps, self.step
        ):
            self.evaluate()
        self._on_call(self)
        while self.step < until:
            try:
                self.exit_if_stopping()
                self.call_train_steps(until)
                self._on_call(self)
                self.run_periodic_actions()
            except NonFiniteError as error:
                self._roll_back(error)
        self._history.train_seconds += self._clock.take_seconds()

    def call_train_steps(self, until: int) -> None:
        """Calls the compiled steps once, at most up to the next action.

        Args:
          until: Number of steps at which the call ends at the latest.
        """
        plan, clock = self.plan, self._clock
        train_steps = self._enter_phase(plan.phase(self.step))
        count = min(
            # The chief decides, because all workers need the same number.
            plan.steps_per_call
            or self._supervisor.workers.broadcast_int(
                clock.steps_in(_CALL_SECONDS)
            ),
            plan.steps_to_boundary(self.step),
            until - self.step,
        )
        if not clock.is_compiled:
            count = 1  # The first call measures the time of a step.
        limit = clock.longest_call_seconds(count)
        self._supervisor.beat("train", self.step, seconds=limit)
        with clock.measure(count):
            train_steps(self._batches, tf.constant(count))
            self.state.step.numpy()  # This waits for the device.
        self._check_health(self.step + count)
        self.step += count

    def run_periodic_actions(self) -> None:
        """Logs, evaluates and saves if the action is due."""
        plan, step = self.plan, self.step
        if plan.due(plan.log_every_steps, step):
            self._write_train_line()
        else:
            loss, accuracy = self._window()
            self._reporter.show(
                step,
                loss=loss,
                accuracy=accuracy,
                images_per_second=self._clock.images_per_second,
            )
        if plan.due(plan.evaluate_every_steps, step):
            self.evaluate()
        if plan.due(plan.checkpoint_every_steps, step) and self._should_save():
            self.save()

    def exit_if_stopping(self) -> None:
        """Saves and raises PreemptedError if a stop was requested."""
        self._saver.check()
        if not self._supervisor.is_stopping():
            return
        if self.step > self._saved_step:
            self.save()
        recovery.flush_and_exit(self._saver, self._supervisor)

    def evaluate(self) -> None:
        """Evaluates the current weights and writes a line, once per step.

        A stop request ends the evaluation after a save and without a line. The
        next attempt therefore evaluates again.
        """
        step, split = self.step, self._evaluation.split
        if self._reporter.log.has(step, split):
            return
        start = time.perf_counter()
        is_last = step == self.plan.train_steps
        scores = self.score(tta=is_last and self._evaluation.tta)
        if is_last:
            self._final = scores
        shown = scores.images * (1 if scores.accuracy_tta is None else 2)
        if split == "validation":
            self._history.validation = (step, scores.accuracy)
        rate = shown / (time.perf_counter() - start)
        self._reporter.write(
            step,
            split,
            loss=scores.loss,
            accuracy=scores.accuracy,
            images_per_second=round(rate, 1),
        )

    def score(self, *, tta: bool = False) -> Scores:
        """Returns the scores of the current weights, or exits if stopping.

        Args:
          tta: Whether to use flip TTA too.
        """

        def poll() -> None:
            self.exit_if_stopping()
            seconds = LONG_SECONDS if next(calls) == 0 else 0.0
            self._supervisor.beat("evaluate", self.step, seconds=seconds)

        calls = itertools.count()  # The first call may compile.
        return self._evaluation.evaluator(
            self.state.evaluated(), tta=tta, poll=poll
        )

    def final_scores(self) -> Scores:
        """Returns the scores of the last step, which are computed only once.

        If an earlier attempt wrote the last line but no result, they are
        computed here.
        """
        if self._final is None:
            self._final = self.score(tta=self._evaluation.tta)
        return self._final

    def finish(self) -> None:
        """Waits until every enqueued checkpoint is committed."""
        while not self._saver.wait(1.0):
            self.exit_if_stopping()
            self._supervisor.beat("save", self.step)

    def save(self) -> None:
        """Enqueues a checkpoint with all metrics lines so far.

        Raises:
          NonFiniteError: A variable is not finite. Nothing is saved.
        """
        self._supervisor.beat("save", self.step)
        tensors = self.state.snapshot()
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise NonFiniteError(f"{name} at step {self.step}", self.step)
        self._history.train_seconds += self._clock.take_seconds()
        self._history.compile_seconds = self._clock.compile_seconds
        log = self._reporter.log
        log.sync()
        replicas = self.state.step.distribute_strategy.num_replicas_in_sync
        run = self._history.to_metadata(self.step, replicas)
        tensors[METRICS_TENSOR] = pack_metrics(log.lines())
        self._saver.save(self.step, tensors, run)
        self._saved_step = self.step
        self._saved_at = time.monotonic()

    def _save_start(self) -> None:
        """Saves the first step, because a rollback needs a checkpoint."""
        try:
            self.save()
        except NonFiniteError as error:
            self._roll_back(error)  # Without a checkpoint this ends the run.

    def _enter_phase(self, phase: phases_lib.Phase) -> TrainSteps:
        """Returns the steps of a phase, whose first call compiles them."""
        if phase != self._phase or self.train_steps is None:
            self._phase = phase
            self.train_steps = self._training.make_train_steps(phase)
            self._clock.expect_compilation()
            if len(self.plan.phases) > 1:
                self._reporter.message(
                    f"Training {', '.join(sorted(phase.trainable_blocks))} at"
                    f" {phase.input_size} pixels from step {phase.first_step}"
                )
        return self.train_steps

    def _check_health(self, expected: int) -> None:
        """Raises an error if a value is not finite or a step was not run."""
        bad = int(self.state.first_bad_step.numpy())
        if bad >= 0:
            raise NonFiniteError(f"the loss or a gradient of step {bad}", bad)
        counted = int(self.state.step.numpy())
        if counted != expected:
            raise RuntimeError(f"the step is {counted} instead of {expected}")

    def _should_save(self) -> bool:
        """Returns whether to write the checkpoint that is due."""
        evaluated, _ = self._history.validation or (None, None)
        # An evaluated checkpoint may be the best one, which is kept.
        if self.step in (evaluated, self.plan.train_steps):
            return True
        age = time.monotonic() - self._saved_at
        is_old = age >= self.plan.checkpoint_seconds
        return bool(self._supervisor.workers.broadcast_int(is_old))

    def _roll_back(self, error: NonFiniteError) -> None:
        self.step = recovery.roll_back(
            error,
            state=self.state,
            saver=self._saver,
            history=self._history,
            supervisor=self._supervisor,
            reporter=self._reporter,
            on_nonfinite=self._on_nonfinite,
        )
        self._batches = self._training.make_batches(self.step)
        self._saved_step = self.step

    def _window(self) -> tuple[float, float]:
        """Returns the mean loss and accuracy, 0 to 1, since the last line."""
        sums = {name: float(v.numpy()) for name, v in self.state.window.items()}
        steps = max(1.0, sums["steps"])
        return (
            sums["loss"] / steps,
            sums["correct"] / (steps * self.plan.global_batch_size),
        )

    def _write_train_line(self) -> None:
        """Writes the metrics since the last line and resets their sums."""
        loss, accuracy = self._window()
        learning_rate = float(
            self.plan.learning_rate(tf.constant(self.step - 1))
        )
        learning_rate *= float(self.state.learning_rate_factor.numpy())
        for variable in self.state.window.values():
            variable.assign(0.0)
        self._reporter.write(
            self.step,
            "train",
            loss=loss,
            accuracy=accuracy,
            learning_rate=learning_rate,
            images_per_second=self._clock.take_images_per_second(),
        )
