"""Checks that train a run's network for a few steps, on one batch.

    check_network(builder, config, plan, data.train, num_classes=10, ...)

Each probe has a function of its own and starts from the initial weights.
"""

import functools
import math
import pathlib
import time
from collections.abc import Mapping

import ml_collections
import numpy as np
import tensorflow as tf

from job import build, errors
from job.data.dataset import Split
from job.diagnose import budget, layers, probes, range_test, recipe
from job.diagnose.report_builder import ReportBuilder
from job.diagnose.trial import Trial
from job.training.plan import Plan

# Checks of whether the network can learn one batch.
_LEARNING = ("stuck_at_chance", "overfit_one_batch")
_CHECKS = ("first_loss", *_LEARNING, "dead_relus", "learning_rate", "precision")

# Fewest images in a batch of large images.
_MIN_BATCH = 8
# Number of 32 px images in which dead units are counted.
_DEAD_RELU_IMAGES = 64
# Factor by which the range test extends below and above the run's and the usual
# learning rate.
_RANGE = 30.0
# Fractions of a learning rate that does not learn, and the steps at each.
_LOWER_RATES, _LOWER_STEPS = (0.1, 0.01), 100
# Seconds that the second network of the precision probe takes to build.
_BUILD_SECONDS = 10.0
# Number of timed steps of each precision.
_TIMINGS = 4


def check_network(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    plan: Plan,
    split: Split,
    *,
    num_classes: int,
    plot: pathlib.Path | None,
    has_run: bool,
) -> None:
    """Runs all probes of a network, as far as the budget allows.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      plan: Plan of the run.
      split: Training images.
      num_classes: Number of classes.
      plot: Path for the plot of the range test. If None, nothing is plotted.
      has_run: Whether a run exists, so that its pretrained weights are no
        longer needed. Then the probes are skipped without them.

    Raises:
      DataError: The pretrained weights are absent or damaged.
      UnavailableError: The pretrained weights cannot be reached.
    """
    try:
        first_weights = build.first_weights(config)
    except (errors.DataError, errors.UnavailableError) as error:
        if not has_run:
            raise
        builder.skip(str(error), *_CHECKS)
        return
    batch_size = budget.num_images(
        probes.BATCH, config.model.input_size**2, at_least=_MIN_BATCH
    )
    rate = config.optimizer.peak_learning_rate
    if config.optimizer.name == "sgd":
        # The linear rule, for the smaller batch.
        rate *= batch_size / config.global_batch_size
    precision = config.precision
    if precision == "float16" and not tf.config.list_physical_devices("GPU"):
        precision = "float32"
        builder.skip("float16 is tried on a GPU only", "precision")
    create_trial = functools.partial(
        Trial,
        config,
        plan,
        batch_size=batch_size,
        first_weights=first_weights,
        num_classes=num_classes,
    )
    trial = create_trial(precision=precision)
    batch = balanced_batch(split, batch_size)
    if probe_learning(
        builder, config, trial, batch, rate=rate, num_classes=num_classes
    ):
        probe_dead_relus(builder, config, trial, split)
    if builder.found("stuck_at_chance"):
        probe_lower_rates(
            builder, config, trial, batch, rate=rate, num_classes=num_classes
        )
    if not builder.found("learning_rate"):
        trial.reset()
        probe_rates(
            builder,
            config,
            trial,
            batch,
            rate=rate,
            num_classes=num_classes,
            plot=plot,
        )
    # The network can learn at another learning rate.
    builder.drop(*_LEARNING, "dead_relus", where="learning_rate")
    if precision != "float32":
        probe_precision(builder, config, trial, batch, create_trial)
    elif config.precision == "float32":
        builder.add("precision", None)


def balanced_batch(split: Split, count: int) -> Split:
    """Returns images of all classes, as equal in number as possible.

    Args:
      split: Labelled images.
      count: Number of images.
    """
    # A stable sort gives the first image of each class, then the second one.
    order = np.argsort(split.labels, kind="stable")
    labels = split.labels[order]
    starts = np.searchsorted(labels, labels)
    rank = np.arange(len(labels)) - starts
    rows = order[np.argsort(rank, kind="stable")][:count]
    return split.take(np.resize(rows, count))


def probe_learning(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    trial: Trial,
    batch: Split,
    *,
    rate: float,
    num_classes: int,
) -> bool:
    """Trains on one batch, to see whether the network can memorize it.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      trial: Network with its initial weights.
      batch: Images that each step trains on.
      rate: Learning rate of the run, scaled to the batch.
      num_classes: Number of classes.

    Returns:
      Whether there was time enough for a conclusion.
    """
    trial.feed(batch.images[None], batch.labels[None])
    losses = probes.overfit(
        trial.step,
        rate=rate,
        steps=probes.STEPS,
        seconds=builder.remaining_seconds(),
    )
    builder.facts["one batch"] = (
        f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses) - 1} steps"
        f" on the same {len(batch)} images, at learning rate {rate:.2g}"
    )
    if config.model.weights:
        # Pretrained features are of any scale, and a head adapts to it fast.
        builder.skip("pretrained weights", "first_loss")
    else:
        builder.add(
            "first_loss",
            probes.check_first_loss(losses[0], num_classes=num_classes),
        )
    if not probes.is_conclusive(losses, num_classes=num_classes):
        builder.skip(_out_of_time(len(losses)), *_LEARNING, "dead_relus")
        return False
    found = probes.check_learning(
        losses,
        batch_norm=config.model.batch_norm,
        rate=rate,
        peak_learning_rate=config.optimizer.peak_learning_rate,
        images=len(batch),
        num_classes=num_classes,
    )
    for name in _LEARNING:
        builder.add(name, found if found and found.check == name else None)
    return True


def probe_dead_relus(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    trial: Trial,
    split: Split,
) -> None:
    """Counts the units of a trained network that are 0 for all images.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      trial: Network after some steps.
      split: Training images.
    """
    count = budget.num_images(_DEAD_RELU_IMAGES, config.model.input_size**2)
    images = split.images[:count]
    fractions = layers.dead_fractions(
        lambda batch: trial.logits(batch, training=True),
        layers.relu_layers(trial.model),
        images,
    )
    flags: tuple[str, ...] = ("--config.model.init=he_fan_out",)
    if not config.model.batch_norm:
        flags = ("--config.model.batch_norm=true", *flags)
    builder.add(
        "dead_relus",
        probes.check_dead_relus(fractions, len(images), flags=flags),
    )


def probe_lower_rates(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    trial: Trial,
    batch: Split,
    *,
    rate: float,
    num_classes: int,
) -> None:
    """Trains a network that is stuck at lower learning rates.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      trial: Network; it is reset.
      batch: Images that each step trains on.
      rate: Learning rate of the run, scaled to the batch.
      num_classes: Number of classes.
    """
    for factor in _LOWER_RATES:
        trial.reset()
        losses = probes.fall(
            trial.step,
            rate=factor * rate,
            steps=_LOWER_STEPS,
            seconds=builder.remaining_seconds(),
            num_classes=num_classes,
        )
        if not losses:
            continue
        peak = config.optimizer.peak_learning_rate
        builder.add(
            "learning_rate",
            range_test.too_high(
                losses,
                rate=factor * rate,
                better=factor * peak,
                peak_learning_rate=peak,
                batch_norm=config.model.batch_norm,
                adam=config.optimizer.name == "adam",
            ),
        )
        return


def probe_rates(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    trial: Trial,
    batch: Split,
    *,
    rate: float,
    num_classes: int,
    plot: pathlib.Path | None,
) -> None:
    """Runs the range test around the run's and the usual learning rate.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      trial: Network with its initial weights.
      batch: Images that each step trains on.
      rate: Learning rate of the run, scaled to the batch.
      num_classes: Number of classes.
      plot: Path for the plot. If None, nothing is plotted.
    """
    trial.feed(batch.images[None], batch.labels[None])
    usual = recipe.rule_of_thumb(
        optimizer=config.optimizer.name,
        global_batch_size=len(batch),
        batch_norm=config.model.batch_norm,
        pretrained=bool(config.model.weights),
    )
    rates = np.geomspace(
        min(rate, usual) / _RANGE, max(rate, usual) * _RANGE, probes.STEPS
    )
    pairs = range_test.losses_by_rate(
        trial.step,
        rates=[float(each) for each in rates],
        seconds=builder.remaining_seconds(),
        num_classes=num_classes,
    )
    test = range_test.analyze(pairs, num_classes=num_classes)
    if len(pairs) < len(rates) and test.breaks is None:
        builder.skip(_out_of_time(len(pairs)), "learning_rate")
        return
    if test.best is not None:
        builder.facts["range test"] = (
            f"the loss falls fastest at {test.best:.2g}; the run's learning"
            f" rate is {rate:.2g} for {len(batch)} images"
        )
    if plot:
        range_test.plot(
            test, plot, rate=rate, images=len(batch), num_classes=num_classes
        )
    found = range_test.check_range(
        test,
        rate=rate,
        peak_learning_rate=config.optimizer.peak_learning_rate,
        learned=not any(builder.found(name) for name in _LEARNING),
        images=len(batch),
        plot_name=plot.name if plot else "",
    )
    builder.add("learning_rate", found)


def probe_precision(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    trial: Trial,
    batch: Split,
    create_trial: functools.partial[Trial],
) -> None:
    """Compares the time of a step with that in float32.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      trial: Network in the precision of the run.
      batch: Images that each step trains on.
      create_trial: Constructor of a trial in a precision.
    """
    if builder.remaining_seconds() < _BUILD_SECONDS:
        builder.skip(_out_of_time(0), "precision")
        return
    trial.reset()
    trials = {
        config.precision: trial,
        "float32": create_trial(precision="float32"),
    }
    seconds = _step_seconds(trials, batch, builder)
    builder.facts["a step"] = ", ".join(
        f"{1e3 * each:.0f} ms in {name}" for name, each in seconds.items()
    )
    builder.add(
        "precision",
        probes.check_precision(
            seconds, precision=config.precision, images=len(batch)
        ),
    )


def _step_seconds(
    trials: Mapping[str, Trial], batch: Split, builder: ReportBuilder
) -> dict[str, float]:
    """Returns the least seconds of a step of each trial, by its name.

    The trials take turns, so that other load on the machine slows all of them.
    """
    least = dict.fromkeys(trials, math.inf)
    for trial in trials.values():
        trial.feed(batch.images[None], batch.labels[None])
        trial.step(0.0)  # Compiles.
    end = budget.clock() + builder.remaining_seconds()
    for count in range(_TIMINGS):
        if count > 1 and budget.clock() > end:
            break
        for name, trial in trials.items():
            start = time.perf_counter()
            trial.step(0.0)
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def _out_of_time(steps: int) -> str:
    return f"its time was up after {steps} steps"
