"""The outer loop: train some steps on the device, log, evaluate, save.

The inner loop (`step.make_train_steps`) runs on the device and knows nothing of
files; this one knows when something is due, hears the wish to stop, and
touches the device only between two calls.

    plan = Plan.create(config, num_images=50_000)
    loop = Loop(plan=plan, state=state, train_steps=train_steps, ...)
    loop.run(until=plan.train_steps)
"""

import contextlib
import copy
import dataclasses
import datetime
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from job import config as config_lib
from job import errors, metrics, optimizer, step
from job import phases as phases_lib
from job.checkpoint.saver import AsyncSaver
from job.evaluate import Evaluator, Scores
from job.peers import Peers, SharedSaver
from job.preemption import StopRequest
from job.progress import Progress
from job.state import TrainState
from job.watchdog import LONG_SECONDS, Watchdog

# A call of the compiled loop is this long at most, so that a wish to stop is
# heard soon.
_CALL_SECONDS = 2.0

# A call that takes that many times as long as the ones before it hangs.
_HUNG_FACTOR = 10.0

# A rollback halves the rate, and so many are tried.
_ROLLBACK_FACTOR = 0.5
_MAX_ROLLBACKS = 3

# Where a manifest says how good a checkpoint is: accuracy on a held-out slice.
BEST_BY = "validation_accuracy"

# So many starts are remembered.
_MAX_STARTS = 100

# What is left of the grace for the last line, once all is saved or given up.
_LAST_LINE_SECONDS = 0.5

# Between two checkpoints whose cadence is left to us: an epoch may take half a
# second, and what is saved so often is not worth its time.
_SAVE_SECONDS = 30.0
# Of the grace, at most, for removing old checkpoints; a later start can do it.
_TIDY_SECONDS = 2.0


class NonFiniteError(Exception):
    """A number of a step is not finite; the loop decides what follows."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} is not finite")
        self.what = what
        self.step = step


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config's cadences, in steps.

    Attributes:
      train_steps: of the whole run.
      num_images: images in the training split.
      global_batch_size: images a step.
      log_every_steps: between two lines of the record.
      evaluate_every_steps: between two evaluations; 0: at the end only.
      checkpoint_every_steps: between two checkpoints.
      checkpoint_seconds: between two checkpoints, at least.
      steps_per_call: of the compiled loop; 0: as many as fit its time.
      learning_rate: as a function of the step.
      groups: how each block's rate differs from it.
      phases: of the run, each with a compiled step of its own.
    """

    train_steps: int
    num_images: int
    global_batch_size: int
    log_every_steps: int
    evaluate_every_steps: int
    checkpoint_every_steps: int
    checkpoint_seconds: float
    steps_per_call: int
    learning_rate: optimizer.LearningRateFn
    groups: dict[str, phases_lib.Group]
    phases: tuple[phases_lib.Phase, ...]

    @classmethod
    def create(
        cls, config: ml_collections.ConfigDict, *, num_images: int
    ) -> "Plan":
        """Converts epochs into steps, once and here only."""

        def steps(epochs: float) -> int:
            return max(1, round(epochs * num_images / config.global_batch_size))

        train_steps = config.steps or steps(config.epochs)
        warmup = config.optimizer.warmup_epochs
        every_epochs = config.evaluate.every_epochs
        groups = phases_lib.create_groups(
            config.transfer.unfreeze_epochs,
            layer_decay=config.transfer.layer_decay,
            warmup_epochs=config.transfer.warmup_epochs,
            steps=steps,
        )
        return cls(
            train_steps=train_steps,
            num_images=num_images,
            global_batch_size=config.global_batch_size,
            log_every_steps=config.log_every_steps,
            evaluate_every_steps=steps(every_epochs) if every_epochs else 0,
            checkpoint_every_steps=config.checkpoint.every_steps or steps(1.0),
            checkpoint_seconds=(
                0.0 if config.checkpoint.every_steps else _SAVE_SECONDS
            ),
            steps_per_call=config.steps_per_loop,
            learning_rate=optimizer.create_learning_rate_fn(
                peak=config.optimizer.peak_learning_rate,
                schedule=config.optimizer.schedule,
                train_steps=train_steps,
                warmup_steps=steps(warmup) if warmup else 0,
            ),
            groups=groups,
            phases=phases_lib.create_phases(
                groups,
                sizes=config.model.progressive_sizes,
                until=[steps(e) for e in config.model.progressive_epochs],
                final_size=config.model.input_size,
            ),
        )

    def epoch(self, done: int) -> float:
        """Returns how many epochs `done` steps are."""
        return round(done * self.global_batch_size / self.num_images, 4)

    def due(self, every: int, done: int) -> bool:
        """Says whether something that comes round every so often is due."""
        return done == self.train_steps or bool(every and done % every == 0)

    def steps_to_boundary(self, done: int) -> int:
        """Returns how many steps there are until something is due."""
        cadences = (
            self.log_every_steps,
            self.evaluate_every_steps,
            self.checkpoint_every_steps,
        )
        ahead = [every - done % every for every in cadences if every]
        starts = [phase.first_step - done for phase in self.phases]
        ahead += [start for start in starts if start > 0]
        return min([*ahead, self.train_steps - done])

    def phase(self, done: int) -> phases_lib.Phase:
        """Returns the phase to which the step after `done` steps belongs."""
        return [p for p in self.phases if p.first_step <= done][-1]


@dataclasses.dataclass
class History:
    """What a run knows of its earlier starts; a checkpoint's `run` part.

    Attributes:
      fields: the flattened config.
      data_crc32c: of the training split.
      step: steps done when this start began.
      resumes: how often the run went on from a checkpoint.
      train_seconds: in the loop, over all starts, as far as it was saved.
      compile_seconds: of the newest start: of each phase's first call, less its
        steps.
      rollbacks: for each, the step that was bad, the step it went back to, and
        the learning rate's factor from there on.
      starts: what each start ran on, and from which step; the newest last.
      record: the lines of metrics.jsonl when it was saved; None: unknown.
      validation: step and accuracy, 0 to 1, of the newest evaluation on a
        held-out slice.
    """

    # What a checkpoint must say of its run, for a later start.
    KEYS: ClassVar[frozenset[str]] = frozenset(
        [
            "config",
            "data_crc32c",
            "resumes",
            "train_seconds",
            "compile_seconds",
            "rollbacks",
        ]
    )

    fields: dict[str, Any]
    data_crc32c: str
    step: int = 0
    resumes: int = 0
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    rollbacks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    record: list[str] | None = None
    validation: tuple[int, float] | None = None

    def begin(self, replicas: int, train_steps: int) -> None:
        """Notes what this start is, and logs what is not as before."""
        now = datetime.datetime.now(datetime.UTC)
        start = {
            "step": self.step,
            "replicas": replicas,
            "train_steps": train_steps,
            "host": platform.node(),
            "versions": _versions(),
            "time": now.isoformat(timespec="seconds"),
        }
        for name in ("replicas", "versions") if self.starts else ():
            before = self.starts[-1].get(name)
            if before != start[name]:
                logging.info("%s: %s, were %s", name, start[name], before)
        planned = self.planned_steps()
        if planned and planned[-1] != train_steps:
            logging.warning(
                "the run was planned for %d steps and is for %d from here on:"
                " so is the course of its learning rate; for a run that is so"
                " from its start, choose another workdir",
                planned[-1],
                train_steps,
            )
        self.starts = [*self.starts[1 - _MAX_STARTS :], start]

    def planned_steps(self) -> list[int]:
        """Returns for how many steps the run was meant, at first and since."""
        planned = [s["train_steps"] for s in self.starts if "train_steps" in s]
        return [steps for steps, _ in itertools.groupby(planned)]

    def to_manifest(
        self, step: int, replicas: int, record: list[str]
    ) -> dict[str, Any]:
        """Returns the manifest's `run` for a checkpoint of `step`.

        Whatever changes later is copied: it is written by another thread.
        """
        scored, accuracy = self.validation or (None, None)
        return {
            "config": self.fields,
            "config_hash": config_lib.fingerprint(self.fields),
            "seed": self.fields["seed"],
            "data_crc32c": self.data_crc32c,
            "replicas": replicas,
            "resumes": self.resumes,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "rollbacks": copy.deepcopy(self.rollbacks),
            "versions": _versions(),
            "starts": copy.deepcopy(self.starts),
            BEST_BY: accuracy if scored == step else None,
            "record": record,
        }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


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
                f" {', '.join(sorted(phase.open_blocks))}"
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
