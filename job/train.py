"""The table of contents: a run from its config to its result.

`train_and_evaluate` builds the rooms in the order in which an image meets
them, then goes round one loop: train some steps on the device, log, evaluate,
save. Restarting is the normal path: it goes on from the newest checkpoint.

    result = train_and_evaluate(config, pathlib.Path("runs/a"), StopRequest())
"""

import dataclasses
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from job import augment as augment_lib
from job import config as config_lib
from job import errors, files, metrics, model, optimizer, results, step
from job import strategy as strategy_lib
from job.checkpoint import store
from job.data import dataset, pipeline, sources
from job.evaluate import Evaluator
from job.preemption import StopRequest
from job.progress import Progress

# A call of the compiled loop is this long at most, so that a wish to stop is
# heard soon.
_CALL_SECONDS = 2.0


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, stop: StopRequest
) -> dict[str, Any]:
    """Trains until the last step, from wherever an earlier start got to.

    Args:
      config: every field of `configs/default.py`, checked by `config.check`.
      workdir: folder for all that is written; created if need be.
      stop: polled between calls of the compiled loop.

    Returns:
      What `result.json` holds.

    Raises:
      JobError: see `errors`; all that was committed stays.
    """
    fields = config_lib.flatten(config)
    strategy = create_strategy(config)
    data = load_data(config)
    stop.check()
    plan = Plan.create(config, num_images=len(data.train))
    state = create_state(config, strategy)
    train_steps = create_train_steps(config, strategy, state, plan)
    evaluator = create_evaluator(config, strategy, data.test)
    checkpoints = store.CheckpointStore(
        workdir / "checkpoints", keep=config.checkpoint.keep
    )
    workdir.mkdir(parents=True, exist_ok=True)
    history = restore_or_initialize(checkpoints, state, fields, data.checksum())
    files.write_json(workdir / "config.json", fields)
    log = metrics.MetricsLog(workdir, first_step=history.step)
    run = _Run(
        plan=plan,
        state=state,
        train_steps=train_steps,
        batches=create_batches(config, strategy, data.train, first_step=history.step),
        evaluator=evaluator,
        split="validation" if config.data.validation_fraction else "test",
        checkpoints=checkpoints,
        history=history,
        log=log,
        stop=stop,
    )
    try:
        run.until_done()
        scores = evaluator(state.evaluated(), tta=True)
    finally:
        log.close()
    result = results.summarize(
        fields,
        scores,
        lines=metrics.read(workdir),
        split=run.split,
        train_steps=plan.train_steps,
        train_seconds=history.train_seconds,
        compile_seconds=history.compile_seconds,
        params=state.model.count_params(),
        replicas=strategy.num_replicas_in_sync,
        data_source=data.source,
        resumes=history.resumes,
    )
    files.write_json(workdir / results.FILE, result)
    return result


def create_strategy(config: ml_collections.ConfigDict) -> tf.distribute.Strategy:
    """Returns the strategy, and checks the batch sizes against its replicas."""
    strategy = strategy_lib.create_strategy(
        logical_devices=config.distribute.logical_devices,
        require_gpus=config.distribute.require_gpus,
        all_reduce=config.distribute.all_reduce,
    )
    replicas = strategy.num_replicas_in_sync
    config_lib.check_replicas(config_lib.flatten(config), replicas)
    logging.info("%d replica(s) on %s", replicas, strategy.extended.worker_devices)
    return strategy


def load_data(config: ml_collections.ConfigDict) -> dataset.Dataset:
    """Returns the images; the held-out slice takes the test images' place."""
    data = sources.load(
        config.data.source,
        config.data.dir,
        archive_sha256=config.data.archive_sha256,
        synthetic_train_images=config.data.synthetic_train_images,
        synthetic_test_images=config.data.synthetic_test_images,
    )
    data = dataset.hold_out(data, config.data.validation_fraction)
    logging.info(
        "%s: %d images to train on, %d to score",
        data.source,
        len(data.train),
        len(data.test),
    )
    return data


def create_model(config: ml_collections.ConfigDict, precision: str) -> keras.Model:
    """Returns the network of a config; call it under the strategy's scope."""
    return model.vgg16(
        width=config.model.width,
        stem_filters=config.model.stem_filters,
        pooling=config.model.pooling,
        batch_norm=config.model.batch_norm,
        batch_norm_momentum=config.model.batch_norm_momentum,
        batch_norm_epsilon=config.model.batch_norm_epsilon,
        sync_batch_norm=config.distribute.sync_batch_norm,
        init=config.model.init,
        precision=precision,
        seed=config.seed,
    )


def create_state(
    config: ml_collections.ConfigDict, strategy: tf.distribute.Strategy
) -> step.TrainState:
    """Returns the variables of a run that has not begun."""
    with strategy.scope():
        return step.TrainState(
            create_model(config, config.precision),
            ema_decay=config.optimizer.ema_decay,
            loss_scaling=config.precision == "float16",
        )


def create_train_steps(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    state: step.TrainState,
    plan: "Plan",
) -> step.TrainSteps:
    """Returns the compiled inner loop, augmentation included."""
    augment = augment_lib.make_augment(
        flip=config.augment.flip,
        translate=int(config.augment.translate),
        fill=config.augment.fill,
        cutout_pixels=int(config.augment.cutout_pixels),
        seed=config.seed,
        num_images=plan.num_images,
        global_batch_size=config.global_batch_size,
        num_replicas=strategy.num_replicas_in_sync,
    )
    return step.make_train_steps(
        strategy,
        state,
        augment,
        step.OptimizerSettings(
            learning_rate=plan.learning_rate,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            label_smoothing=config.optimizer.label_smoothing,
            ema_decay=config.optimizer.ema_decay,
            clip_norm=config.optimizer.clip_norm,
        ),
        global_batch_size=config.global_batch_size,
        jit_compile=use_jit(config.jit_compile, config.distribute.sync_batch_norm),
    )


def use_jit(jit_compile: str, sync_batch_norm: bool) -> bool:
    """Says whether XLA compiles the step: on GPUs; it is slow on CPUs."""
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return {"on": True, "off": False, "auto": on_gpu and not sync_batch_norm}[
        jit_compile
    ]


def create_batches(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    split: dataset.Split,
    *,
    first_step: int,
):
    """Returns an endless iterator over `TrainBatch`, for `strategy`."""
    batches = pipeline.train_batches(
        split,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        first_step=first_step,
        num_replicas=strategy.num_replicas_in_sync,
    )
    return iter(strategy.distribute_datasets_from_function(lambda context: batches))


def create_evaluator(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    split: dataset.Split,
) -> Evaluator:
    """Returns what scores `split`, in float32 whatever the training's precision."""
    with strategy.scope():
        network = create_model(config, "float32")
    return Evaluator(
        strategy,
        split,
        network,
        global_batch_size=config.evaluate.global_batch_size,
    )


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
      steps_per_call: of the compiled loop; 0: as many as fit its time.
      learning_rate: as a function of the step.
    """

    train_steps: int
    num_images: int
    global_batch_size: int
    log_every_steps: int
    evaluate_every_steps: int
    checkpoint_every_steps: int
    steps_per_call: int
    learning_rate: optimizer.LearningRateFn

    @classmethod
    def create(cls, config: ml_collections.ConfigDict, *, num_images: int) -> "Plan":
        """Converts epochs into steps, once and here only."""

        def steps(epochs: float) -> int:
            return max(1, round(epochs * num_images / config.global_batch_size))

        train_steps = config.steps or steps(config.epochs)
        warmup = config.optimizer.warmup_epochs
        every_epochs = config.evaluate.every_epochs
        return cls(
            train_steps=train_steps,
            num_images=num_images,
            global_batch_size=config.global_batch_size,
            log_every_steps=config.log_every_steps,
            evaluate_every_steps=steps(every_epochs) if every_epochs else 0,
            checkpoint_every_steps=config.checkpoint.every_steps or steps(1.0),
            steps_per_call=config.steps_per_loop,
            learning_rate=optimizer.create_learning_rate_fn(
                peak=config.optimizer.peak_learning_rate,
                schedule=config.optimizer.schedule,
                train_steps=train_steps,
                warmup_steps=steps(warmup) if warmup else 0,
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
        return min([*ahead, self.train_steps - done])


@dataclasses.dataclass
class History:
    """What a run knows of its earlier starts; a checkpoint's `run` part.

    Attributes:
      fields: the flattened config.
      data_crc32c: of the training split.
      step: steps done when this start began.
      resumes: how often the run went on from a checkpoint.
      train_seconds: in the loop, over all starts, as far as it was saved.
      compile_seconds: of the newest start's first call, less a step.
    """

    fields: dict[str, Any]
    data_crc32c: str
    step: int = 0
    resumes: int = 0
    train_seconds: float = 0.0
    compile_seconds: float = 0.0

    def to_manifest(self, replicas: int) -> dict[str, Any]:
        """Returns the manifest's `run`."""
        return {
            "config": self.fields,
            "config_hash": config_lib.fingerprint(self.fields),
            "seed": self.fields["seed"],
            "data_crc32c": self.data_crc32c,
            "replicas": replicas,
            "resumes": self.resumes,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
            },
        }


def restore_or_initialize(
    checkpoints: store.CheckpointStore,
    state: step.TrainState,
    fields: dict[str, Any],
    data_crc32c: str,
) -> History:
    """Sets `state` to the newest usable checkpoint, if there ever was one.

    Raises:
      ResumeError: none is usable, or it is of a run with another result.
    """
    found = checkpoints.restore_newest()
    if found is None:
        return History(fields, data_crc32c)
    saved, tensors = found
    changed = config_lib.differences(saved.run["config"], fields)
    if saved.run["data_crc32c"] != data_crc32c:
        changed.append("the training images")
    if changed:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} is of another run"
            f" ({'; '.join(changed)}); choose another workdir, or change that back"
        )
    try:
        state.restore(tensors)
    except ValueError as error:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} does not fit: {error}"
        ) from None
    logging.info("resumed from the checkpoint of step %d", saved.step)
    return History(
        fields,
        data_crc32c,
        step=saved.step,
        resumes=saved.run["resumes"] + 1,
        train_seconds=saved.run["train_seconds"],
        compile_seconds=saved.run["compile_seconds"],
    )


@dataclasses.dataclass
class _Run:
    """The outer loop, and what it holds."""

    plan: Plan
    state: step.TrainState
    train_steps: step.TrainSteps
    batches: Any
    evaluator: Evaluator
    split: str
    checkpoints: store.CheckpointStore
    history: History
    log: metrics.MetricsLog
    stop: StopRequest

    def until_done(self) -> None:
        """Trains to the last step: calls of the inner loop, and what is due."""
        plan = self.plan
        done = saved = self.history.step
        progress = Progress(plan.train_steps, first_step=done)
        clock = _Clock(plan.global_batch_size)
        try:
            while done < plan.train_steps:
                if self.stop.requested and done > saved:
                    self.save(done, clock)
                    saved = done
                self.stop.check(f"all is saved up to step {saved}")
                count = min(
                    plan.steps_per_call or clock.steps_in(_CALL_SECONDS),
                    plan.steps_to_boundary(done),
                )
                clock.measure(count, lambda n=count: self.call(n))
                done += count
                self.check_progress(done)
                if plan.due(plan.log_every_steps, done):
                    self.write_train_line(done, clock, progress)
                else:
                    self.show(done, clock, progress)
                if plan.due(plan.evaluate_every_steps, done):
                    self.write_evaluation_line(done, progress)
                if plan.due(plan.checkpoint_every_steps, done):
                    self.save(done, clock)
                    saved = done
        finally:
            progress.close()
        self.history.train_seconds += clock.take_seconds()

    def call(self, count: int) -> None:
        """Runs the inner loop, and waits for it."""
        self.train_steps(self.batches, tf.constant(count))
        self.state.step.numpy()

    def check_progress(self, done: int) -> None:
        """Raises if the step counter is elsewhere or a number was not finite."""
        bad = int(self.state.first_bad_step.numpy())
        if bad >= 0:
            newest = max(self.checkpoints.committed_steps(), default=None)
            kept = (
                f"the checkpoint of step {newest} is intact"
                if newest is not None
                else "nothing had been saved"
            )
            raise errors.DivergedError(
                f"the loss or a gradient of step {bad} is not finite; {kept}; a lower"
                " --config.optimizer.peak_learning_rate or a"
                " --config.optimizer.clip_norm=1.0 is what usually helps"
            )
        counted = int(self.state.step.numpy())
        if counted != done:
            raise RuntimeError(f"{counted} steps were counted, not {done}")

    def window(self) -> tuple[float, float]:
        """Returns mean loss and accuracy, 0 to 1, since the last line."""
        sums = {name: float(v.numpy()) for name, v in self.state.window.items()}
        steps = max(1.0, sums["steps"])
        return (
            sums["loss"] / steps,
            sums["correct"] / (steps * self.plan.global_batch_size),
        )

    def show(self, done: int, clock: "_Clock", progress: Progress) -> None:
        """Moves the bar within a line's steps."""
        loss, accuracy = self.window()
        progress.update(
            done, loss=loss, accuracy=accuracy, images_per_second=clock.rate
        )

    def write_train_line(
        self, done: int, clock: "_Clock", progress: Progress
    ) -> None:
        """Records the steps since the last line, and starts a new one."""
        loss, accuracy = self.window()
        rate = clock.take_rate()
        learning_rate = float(self.plan.learning_rate(tf.constant(done - 1)))
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
        progress.update(done, loss=loss, accuracy=accuracy, images_per_second=rate)
        if progress.quiet:
            progress.line(
                f"step {done}/{self.plan.train_steps} epoch {self.plan.epoch(done):.2f}"
                f" train loss {loss:.4f} accuracy {accuracy:.4f}"
                f" learning_rate {learning_rate:.4g} images/s {rate:.0f}"
            )

    def write_evaluation_line(self, done: int, progress: Progress) -> None:
        """Scores the weights as they are now, and records it."""
        start = time.perf_counter()
        scores = self.evaluator(self.state.evaluated())
        rate = scores.images / (time.perf_counter() - start)
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
        progress.line(
            f"step {done}/{self.plan.train_steps} epoch {self.plan.epoch(done):.2f}"
            f" {self.split} loss {scores.loss:.4f} accuracy {scores.accuracy:.4f}"
        )

    def save(self, done: int, clock: "_Clock") -> None:
        """Commits a checkpoint, behind all lines up to it."""
        self.history.train_seconds += clock.take_seconds()
        self.history.compile_seconds = clock.compile_seconds
        self.log.sync()
        replicas = self.state.step.distribute_strategy.num_replicas_in_sync
        self.checkpoints.save(
            done, self.state.snapshot(), self.history.to_manifest(replicas)
        )


class _Clock:
    """Times the calls of the inner loop."""

    def __init__(self, global_batch_size: int) -> None:
        self._global_batch_size = global_batch_size
        self._calls: list[tuple[int, float]] = []
        self._line: tuple[int, float] = (0, 0.0)
        self._first_seconds: float | None = None
        self._since = time.perf_counter()

    def measure(self, steps: int, call: Callable[[], None]) -> None:
        """Times `call`, which runs `steps` steps."""
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        if self._first_seconds is None:
            # Traces and compiles: not what a step costs.
            self._first_seconds = seconds
            return
        self._calls = [*self._calls[-20:], (steps, seconds)]
        self._line = (self._line[0] + steps, self._line[1] + seconds)

    @property
    def step_seconds(self) -> float | None:
        """Median of the last calls; None until the second call is over."""
        if not self._calls:
            return None
        return statistics.median(seconds / steps for steps, seconds in self._calls)

    @property
    def rate(self) -> float:
        """Images a second of the last calls."""
        return self._global_batch_size / (self.step_seconds or self._first_seconds or 1)

    @property
    def compile_seconds(self) -> float:
        """Of the first call, what it took longer than a step takes."""
        first = self._first_seconds or 0.0
        return round(max(0.0, first - (self.step_seconds or 0.0)), 3)

    def steps_in(self, seconds: float) -> int:
        """Returns how many steps fit into `seconds`; 1 while nothing is known."""
        return max(1, int(seconds / self.step_seconds)) if self.step_seconds else 1

    def take_rate(self) -> float:
        """Returns the images a second since the last call of this."""
        steps, seconds = self._line
        self._line = (0, 0.0)
        rate = steps * self._global_batch_size / seconds if steps else self.rate
        return round(rate, 1)

    def take_seconds(self) -> float:
        """Returns the seconds since the last call of this, all work included."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return round(seconds, 3)
