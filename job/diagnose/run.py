"""All checks on a config, a run or somebody's model: the table of contents.

report = diagnose(config, None, StopRequest())
print(finding.to_text(report))
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job import errors, train
from job.augment import make_augment
from job.checkpoint import store
from job.config import ranges as config_lib
from job.data import pipeline
from job.data.dataset import Dataset, Split
from job.diagnose import finding as finding_lib
from job.diagnose import (
    from_config,
    from_data,
    from_run,
    keras_model,
    probes,
)
from job.diagnose.finding import Finding, Report
from job.diagnose.trial import Trial
from job.model.batches import batch_size_for
from job.output import metrics, results
from job.storage import files
from job.storage.workdir import Workdir
from job.supervision.preemption import StopRequest
from job.training.plan import Plan
from job.training.state import load_evaluated

FILE = "diagnose.json"
PICTURE = "range_test.png"

# Of one probe, at most, and of all of them together; what is left of two
# minutes is for TensorFlow's import, the data and the compilation.
_PROBE_SECONDS = 35.0
_ALL_SECONDS = 80.0
# What the second network of the test of precision takes to be built.
_BUILD_SECONDS = 10.0
# The range test goes as far below and above the run's rate and the usual one.
_RANGE = 30.0
# Images that a checkpoint is scored on, of each split.
_SCORED = 1000
_SHUFFLED_BATCHES = 20
_LOOKED_AT = 64
# Running moments that forget this much a step follow soon enough.
_QUICK_MOMENTUM = 0.9
# Checks that look at a checkpoint.
_OF_WEIGHTS = ("train_test_gap", "running_moments")
_TIMINGS = 4

_Array = npt.NDArray


class _Notes:
    """Collects what the checks say, and how much time is left."""

    def __init__(self, stop: StopRequest, seconds: float) -> None:
        self._start = time.perf_counter()
        self._end = probes.clock() + seconds
        self._poll = stop.check
        self._found: dict[str, Finding | None] = {}
        self._skipped: dict[str, str] = {}
        self.facts: dict[str, str] = {}

    def add(self, name: str, found: Finding | None) -> None:
        """Notes a check; of two with one name the one that found something."""
        self._poll()
        self._skipped.pop(name, None)
        if found or name not in self._found:
            self._found[name] = found

    def skip(self, why: str, *names: str) -> None:
        """Notes that checks could not look."""
        for name in names:
            if name not in self._found:
                self._skipped[name] = why

    def drop(self, name: str, *, where: str) -> None:
        """Forgets a finding that another one explains, or says better."""
        if self._found.get(where) and self._found.get(name):
            del self._found[name]

    def found(self, name: str) -> bool | None:
        """Says whether a check found something; None: it did not look."""
        return bool(self._found[name]) if name in self._found else None

    def seconds(self) -> float:
        """Returns what a probe may take, by `probes.clock`."""
        return min(_PROBE_SECONDS, max(0.0, self._end - probes.clock()))

    def report(self) -> Report:
        """Returns all of it, in order."""
        findings = [found for found in self._found.values() if found]
        return Report(
            findings=finding_lib.in_order(findings),
            passed=[name for name, found in self._found.items() if not found],
            skipped=self._skipped,
            facts=self.facts,
            seconds=time.perf_counter() - self._start,
        )


def diagnose(
    config: ml_collections.ConfigDict,
    workdir: Workdir | None,
    stop: StopRequest,
    *,
    seconds: float = _ALL_SECONDS,
) -> Report:
    """Looks for known mistakes in a config, and in its run where there is one.

    Of the run nothing is changed, whether it is over or still going on: its
    record and its newest checkpoint are read, diagnose.json and range_test.png
    are written beside them (in a folder; nothing is written to a bucket).

    Args:
      config: of the run, checked; data is loaded as it says.
      workdir: of the run, or for the files alone; None: writes nothing.
      stop: polled between two checks.
      seconds: of all probes together, by `probes.clock`; what does not fit is
        not checked.

    Raises:
      JobError: the data or the weights cannot be had.
    """
    stop.saved = "a diagnosis changes nothing"
    notes = _Notes(stop, seconds)
    local = workdir.local if workdir else None
    kept = local if workdir and not workdir.mirror else None
    lines = from_run.whole_lines(metrics.read(local)) if local else []
    result = files.read_json(local / results.FILE) if local else None
    result = result if isinstance(result, dict) else {}
    fields = config_lib.flatten(config)
    _take_little_memory()
    data = train.load_data(config, stop.check)
    plan = train.create_plan(config, len(data.train))
    check_data(notes, config, data)
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
    picture = kept / PICTURE if kept else None
    try_network(
        notes,
        config,
        plan,
        data.train,
        picture,
        run=bool(lines),
        num_classes=data.num_classes,
    )
    stuck = notes.found("stuck_at_chance")
    learns = None
    if notes.found("range_test"):
        learns = True  # At another rate.
    elif stuck is not None:
        learns = not (stuck or notes.found("overfit_one_batch"))
    checks = from_config.check_fields(
        fields,
        num_images=len(data.train),
        replicas=result.get("replicas") or _replicas(fields),
        drawn=data.source == "synthetic",
        learns=learns,
        num_classes=data.num_classes,
    )
    for name, found in checks.items():
        notes.add(name, found)
    notes.add(
        "loss_scaling",
        probes.check_loss_scaling(precision=config.precision, scaled=True),
    )
    if workdir and (lines or result):
        check_run(notes, config, plan, lines, result, data, workdir)
    notes.drop("no_batch_norm", where="stuck_at_chance")
    notes.drop("overfit_one_batch", where="no_batch_norm")
    notes.drop("rate_rule", where="range_test")
    if notes.found("range_test") is None:
        # There was no time to see whether another rate would do.
        notes.drop("stuck_at_chance", where="rate_rule")
        notes.drop("overfit_one_batch", where="rate_rule")
    report = notes.report()
    if kept:
        files.write_json(kept / FILE, finding_lib.to_json(report))
    return report


def _take_little_memory() -> None:
    """Leaves the memory of a GPU to a run that may be going on there.

    And has float32 be float32 there, as the run has it (see `strategy`).
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        # In use already, by this process: it stays as it is.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def diagnose_model(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    stop: StopRequest,
) -> Report:
    """Looks for known mistakes in somebody's model.

    Args:
      path: of the .keras file.
      config: whose data are the images to look with; of no other use.
      stop: polled between two checks.

    Raises:
      DataError: the file is none, or asks for code that is not Keras'.
    """
    stop.saved = "a diagnosis changes nothing"
    notes = _Notes(stop, _ALL_SECONDS)
    _take_little_memory()
    loaded = keras_model.load(path)
    data = train.load_data(config, stop.check)
    checks, facts = keras_model.check_model(loaded, data.test, data.num_classes)
    for name, found in checks.items():
        notes.add(name, found)
    notes.facts.update(facts)
    notes.add(
        "labels",
        from_data.check_labels(data.train.labels, num_classes=data.num_classes),
    )
    notes.add(
        "balance",
        from_data.check_balance(
            data.train.labels, num_classes=data.num_classes
        ),
    )
    notes.add("copies", from_data.check_copies(data.train, data.test))
    return notes.report()


def check_data(
    notes: _Notes, config: ml_collections.ConfigDict, data: Dataset
) -> None:
    """Looks at the images, their labels, their order and what is done to them.

    Args:
      notes: gets what was found.
      config: of the run.
      data: as the run would see it.
    """
    notes.add(
        "labels",
        from_data.check_labels(data.train.labels, num_classes=data.num_classes),
    )
    notes.add(
        "balance",
        from_data.check_balance(
            data.train.labels, num_classes=data.num_classes
        ),
    )
    notes.add("copies", from_data.check_copies(data.train, data.test))
    batches = pipeline.train_batches(
        data.train,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        first_step=0,
    )
    labels = [b.label.numpy() for b in batches.take(_SHUFFLED_BATCHES)]
    notes.add(
        "shuffling",
        from_data.check_shuffling(
            labels, all_labels=data.train.labels, num_classes=data.num_classes
        ),
    )
    notes.add(
        "preprocessing",
        from_data.check_preprocessing(
            data.train.images[:500],
            preprocessing=train.preprocessing(config),
            pretrained=bool(config.model.weights),
        ),
    )
    settings = train.augment_settings(config)
    keyed_by_image = dataclasses.replace(settings, flip="none")
    augment = make_augment(
        settings,
        seed=config.seed,
        num_images=max(len(data.train), probes.BATCH),
        global_batch_size=2 * probes.BATCH,
        num_replicas=2,
    )
    images = np.resize(data.train.images[: probes.BATCH], _shape(probes.BATCH))
    notes.add(
        "replica_augmentation",
        probes.check_replica_augmentation(
            augment,
            images,
            # An alternating flip is the image's own, wherever it stands.
            by_image_only=settings.flip == "alternating"
            and keyed_by_image == type(settings)(fill=settings.fill),
        ),
    )


def _shape(count: int) -> tuple[int, ...]:
    return (count, 32, 32, 3)


def try_network(
    notes: _Notes,
    config: ml_collections.ConfigDict,
    plan: Plan,
    split: Split,
    picture: pathlib.Path | None,
    *,
    run: bool,
    num_classes: int,
) -> None:
    """Trains the network for a few steps, and looks at what comes of it.

    Args:
      notes: gets what was found.
      config: of the run.
      plan: of the run.
      split: the training images.
      picture: where the range test is drawn; None: nowhere.
      run: there is a run already: where it began from is not needed any more.
      num_classes: Number of classes.
    """
    probed = ("first_loss", "stuck_at_chance", "overfit_one_batch")
    rest = ("dead_relus", "range_test", "precision")
    try:
        first_weights = train.first_weights(config)
    except (errors.DataError, errors.UnavailableError) as error:
        if not run:
            raise
        notes.skip(str(error), *probed, *rest)
        return
    size = config.model.input_size
    # Larger images, fewer of them.
    batch = batch_size_for(size, probes.BATCH, at_least=8)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    precision = config.precision
    if precision == "float16" and not on_gpu:
        precision = "float32"
        notes.skip("float16 is tried on a GPU only", "precision")
    rate = config.optimizer.peak_learning_rate
    if config.optimizer.name == "sgd":
        # By the linear rule, for the smaller batch.
        rate *= batch / config.global_batch_size

    def create(precision: str) -> Trial:
        return Trial(
            config,
            plan,
            precision=precision,
            batch_size=batch,
            num_classes=num_classes,
            first_weights=first_weights,
        )

    trial = create(precision)
    balanced = _balanced(split, batch)
    trial.feed(balanced.images[None], balanced.labels[None])
    losses = probes.overfit(
        trial.step, rate=rate, steps=probes.STEPS, seconds=notes.seconds()
    )
    notes.facts["one batch"] = (
        f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses) - 1} steps"
        f" on the same {batch} images, at the rate {rate:.2g}"
    )
    if config.model.weights:
        # Its features are of any size, and a head adapts to that in no time.
        notes.skip("the weights are not new", "first_loss")
    else:
        notes.add("first_loss", probes.check_first_loss(losses[0], num_classes))
    if probes.is_conclusive(losses, num_classes):
        found = probes.check_learning(
            losses,
            batch_norm=config.model.batch_norm,
            rate=rate,
            peak_learning_rate=config.optimizer.peak_learning_rate,
            images=batch,
            num_classes=num_classes,
        )
        for name in ("stuck_at_chance", "overfit_one_batch"):
            mine = found if found and found.check == name else None
            notes.add(name, mine)
        looked_at = split.images[: batch_size_for(size, _LOOKED_AT)]
        shares = probes.dead_shares(
            lambda images: trial.logits(images, training=True),
            probes.relu_layers(trial.model),
            looked_at,
        )
        notes.add("dead_relus", probes.check_dead_relus(shares, len(looked_at)))
    else:
        notes.skip(_late(len(losses)), *probed[1:], "dead_relus")

    trial.reset()
    trial.feed(balanced.images[None], balanced.labels[None])
    usual = from_config.rule_of_thumb(
        optimizer=config.optimizer.name, global_batch_size=batch
    )
    rates = np.geomspace(
        min(rate, usual) / _RANGE, max(rate, usual) * _RANGE, probes.STEPS
    )
    pairs = probes.range_test(
        trial.step,
        rates=[float(r) for r in rates],
        seconds=notes.seconds(),
        num_classes=num_classes,
    )
    ranged = probes.read_range(pairs, num_classes)
    if len(pairs) == len(rates) or ranged.breaks is not None:
        if ranged.best is not None:
            notes.facts["range test"] = (
                f"the loss falls fastest at {ranged.best:.2g}, the run's rate"
                f" is {rate:.2g} for {batch} images"
            )
        if picture:
            probes.draw_range(
                ranged,
                picture,
                rate=rate,
                images=batch,
                num_classes=num_classes,
            )
        learning = ("stuck_at_chance", "overfit_one_batch")
        found = probes.check_range(
            ranged,
            rate=rate,
            peak_learning_rate=config.optimizer.peak_learning_rate,
            learnt=not any(notes.found(name) for name in learning),
            images=batch,
            picture=picture.name if picture else "",
        )
        notes.add("range_test", found)
        for name in learning:
            # It could learn, at another rate.
            notes.drop(name, where="range_test")
    else:
        notes.skip(_late(len(pairs)), "range_test")

    if precision == "float32":
        if config.precision == "float32":
            notes.add("precision", None)
        return
    if notes.seconds() < _BUILD_SECONDS:
        notes.skip(_late(0), "precision")
        return
    trial.reset()
    seconds = _step_seconds(
        {precision: trial, "float32": create("float32")}, balanced, notes
    )
    notes.facts["a step"] = ", ".join(
        f"{1e3 * each:.0f} ms in {name}" for name, each in seconds.items()
    )
    notes.add(
        "precision",
        probes.check_precision(seconds, precision=precision, images=batch),
    )


def _late(steps: int) -> str:
    return f"its time was spent after {steps} steps"


def _balanced(split: Split, count: int) -> Split:
    """Returns some images, of each class as many as there can be."""
    # Stable: the first image of each class, then the second, and so on.
    order = np.argsort(split.labels, kind="stable")
    labels = split.labels[order]
    starts = np.searchsorted(labels, labels)
    rank = np.arange(len(labels)) - starts
    rows = order[np.argsort(rank, kind="stable")][:count]
    return split.take(np.resize(rows, count))


def _step_seconds(
    trials: Mapping[str, Trial], batch: Split, notes: _Notes
) -> dict[str, float]:
    """Times steps in turn, so that what else runs here hits all of them."""
    least = dict.fromkeys(trials, math.inf)
    for trial in trials.values():
        trial.feed(batch.images[None], batch.labels[None])
        trial.step(0.0)  # Compiles.
    end = probes.clock() + notes.seconds()
    for count in range(_TIMINGS):
        if count > 1 and probes.clock() > end:
            break
        for name, trial in trials.items():
            start = time.perf_counter()
            trial.step(0.0)
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def check_run(
    notes: _Notes,
    config: ml_collections.ConfigDict,
    plan: Plan,
    lines: Sequence[Mapping[str, Any]],
    result: dict[str, Any],
    data: Dataset,
    workdir: Workdir,
) -> None:
    """Looks at what a run has left so far.

    Args:
      notes: gets what was found.
      config: of the run.
      plan: of the run.
      lines: of its metrics.jsonl.
      result: its result.json; {} where it is not over.
      data: as the run sees it.
      workdir: where its checkpoints lie.
    """
    notes.add(
        "stuck_at_chance", from_run.check_record_stuck(lines, data.num_classes)
    )
    notes.add("diverged", from_run.check_diverged(lines, result))
    notes.add("best_epoch", from_run.check_best_epoch(lines, result))
    if scores := from_run.describe_scores(lines):
        notes.facts["accuracy"] = scores
    try:
        _check_weights(notes, config, plan, data, workdir)
    except (errors.ResumeError, errors.StorageError, KeyError) as error:
        notes.skip(f"no checkpoint can be read: {error}", *_OF_WEIGHTS)


def _check_weights(
    notes: _Notes,
    config: ml_collections.ConfigDict,
    plan: Plan,
    data: Dataset,
    workdir: Workdir,
) -> None:
    checkpoints = store.CheckpointStore(workdir.checkpoints)
    # Reading puts nothing aside: the run may be writing there.
    newest = checkpoints.restore_newest(quarantine=False)
    if newest is None:
        notes.skip("the run has no checkpoint yet", *_OF_WEIGHTS)
        return
    saved, tensors = newest
    network = train.create_model(
        config, "float32", num_classes=data.num_classes
    )
    load_evaluated(network, tensors)
    resize = train.create_resize(config)
    size = batch_size_for(config.model.input_size, 250, at_least=8)

    @tf.function(autograph=False, reduce_retracing=True)
    def predict(images: tf.Tensor, training: bool) -> tf.Tensor:
        logits, _ = network(resize(images), training=training)
        return tf.argmax(logits, axis=-1)

    def accuracy(split: Split, training: bool = False) -> float:
        end = probes.clock() + notes.seconds()
        right = []
        for first in range(0, len(split), size):
            rows = slice(first, first + size)
            classes = predict(tf.constant(split.images[rows]), training)
            right.append(classes.numpy() == split.labels[rows])
            if probes.clock() > end:
                break
        return float(np.concatenate(right).mean())

    drawn = np.random.default_rng(0)

    def some(split: Split) -> Split:
        return split.take(drawn.permutation(len(split))[:_SCORED])

    seen, unseen = some(data.train), some(data.test)
    plain, test = accuracy(seen), accuracy(unseen)
    notes.facts["newest checkpoint"] = (
        f"step {saved.step:,} of {plan.train_steps:,}: {100 * plain:.1f} on"
        f" {len(seen):,} plain training images, {100 * test:.1f} on"
        f" {len(unseen):,} that were not trained on"
    )
    augment = config.augment.to_dict()
    augmented = train.augments(config)
    notes.add(
        "train_test_gap",
        from_run.check_gap(
            train_accuracy=plain, test_accuracy=test, augmented=augmented
        ),
    )
    if saved.step >= from_run.LATE * plan.train_steps:
        notes.add(
            "over_augmentation",
            from_run.check_underfit(
                plain_accuracy=plain,
                test_accuracy=test,
                heavy=from_config.heavy_augmentation(augment),
            ),
        )
    if config.model.batch_norm:
        batch = some(data.test).take(np.arange(min(size, len(data.test))))
        found = from_run.check_running_moments(
            by_batch=accuracy(batch, training=True),
            by_running=accuracy(batch),
            images=len(batch),
        )
        if found:
            # The other remedy is for models that call their layers themselves.
            mend = "train for more steps"
            if config.model.batch_norm_momentum > _QUICK_MOMENTUM:
                mend += ", with --config.model.batch_norm_momentum=0.9"
            found = dataclasses.replace(found, remedy=(mend,))
        notes.add("running_moments", found)


def _replicas(fields: Mapping[str, Any]) -> int:
    return fields["distribute.logical_devices"] or max(
        1, len(tf.config.list_physical_devices("GPU"))
    )
