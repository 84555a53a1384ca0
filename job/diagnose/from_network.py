"""Checks that train a run's network on one batch for a few steps.

    check_network(builder, config, plan, data.train, num_classes=10)

Each probe starts from the initial weights.
"""

import ml_collections
import numpy as np
import tensorflow as tf

from job import build, errors
from job.data.dataset import Split
from job.diagnose import layers, probes, recipe
from job.diagnose.report_builder import ReportBuilder
from job.diagnose.trial import Trial
from job.model import batches
from job.training.plan import Plan

# Names of the checks of learning on one batch.
_LEARNING = ("stuck_at_chance", "overfit_one_batch")
_CHECKS = ("first_loss", *_LEARNING, "dead_relus", "learning_rate")

# Smallest batch of large images.
_MIN_BATCH = 8
# Number of 32 px images for the count of dead units.
_DEAD_RELU_IMAGES = 64
# Multiples of a learning rate that fails, and the number of steps at each.
_RATES, _RATE_STEPS = (0.1, 0.01, 10.0, 100.0, 1000.0), 100


def check_network(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    plan: Plan,
    split: Split,
    *,
    num_classes: int,
    has_run: bool,
) -> None:
    """Runs the probes of a network within the budget.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      plan: Plan of the run.
      split: Training images.
      num_classes: Number of classes.
      has_run: Whether a run exists. If so, absent pretrained weights are not an
        error, and the probes are skipped.

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
    batch_size = batches.batch_size_for(
        config.model.input_size, probes.BATCH, at_least=_MIN_BATCH
    )
    precision = config.precision
    if precision == "float16" and not tf.config.list_physical_devices("GPU"):
        precision = "float32"
    trial = Trial(
        config,
        plan,
        balanced_batch(split, batch_size),
        precision=precision,
        first_weights=first_weights,
        num_classes=num_classes,
    )
    if probe_learning(builder, trial):
        probe_dead_relus(builder, trial, split)
    if any(builder.found(name) for name in _LEARNING):
        probe_other_rates(builder, trial)
    # The network learns at another learning rate.
    builder.drop(*_LEARNING, "dead_relus", where="learning_rate")


def balanced_batch(split: Split, count: int) -> Split:
    """Returns images of all classes in nearly equal numbers.

    Args:
      split: Images and labels.
      count: Number of images.
    """
    # The stable sort gives the first image of each class, then the second one.
    order = np.argsort(split.labels, kind="stable")
    labels = split.labels[order]
    starts = np.searchsorted(labels, labels)
    rank = np.arange(len(labels)) - starts
    rows = order[np.argsort(rank, kind="stable")][:count]
    return split.take(np.resize(rows, count))


def probe_learning(builder: ReportBuilder, trial: Trial) -> bool:
    """Trains on one batch and checks whether the network memorizes it.

    Args:
      builder: Collector of the findings.
      trial: Network with its initial weights.

    Returns:
      Whether the time sufficed for a conclusion.
    """
    images, num_classes = len(trial.batch), trial.num_classes
    losses = probes.overfit(
        trial.step,
        rate=trial.rate,
        steps=probes.STEPS,
        seconds=builder.remaining_seconds(),
    )
    builder.facts["one batch"] = (
        f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses) - 1} steps"
        f" on the same {images} images, at learning rate {trial.rate:.2g}"
    )
    if trial.config.model.weights:
        # Pretrained features have any scale, to which a head adapts quickly.
        builder.skip("pretrained weights", "first_loss")
    else:
        builder.add(
            "first_loss",
            probes.check_first_loss(losses[0], num_classes=num_classes),
        )
    if not probes.is_conclusive(losses, num_classes=num_classes):
        why = f"no time left after {len(losses)} steps"
        builder.skip(why, *_LEARNING, "dead_relus")
        return False
    found = probes.check_learning(
        losses,
        batch_norm=trial.config.model.batch_norm,
        rate=trial.rate,
        peak_learning_rate=trial.config.optimizer.peak_learning_rate,
        images=images,
        num_classes=num_classes,
    )
    for name in _LEARNING:
        builder.add(name, found if found and found.check == name else None)
    return True


def probe_dead_relus(
    builder: ReportBuilder, trial: Trial, split: Split
) -> None:
    """Counts the units that are 0 for all images after some steps.

    Args:
      builder: Collector of the findings.
      trial: Network after some steps.
      split: Training images.
    """
    model = trial.config.model
    count = batches.batch_size_for(model.input_size, _DEAD_RELU_IMAGES)
    images = split.images[:count]
    fractions = layers.dead_fractions(
        lambda batch: trial.logits(batch, training=True),
        layers.relu_layers(trial.model),
        images,
    )
    builder.add(
        "dead_relus",
        probes.check_dead_relus(
            fractions,
            len(images),
            flags=probes.fixes(batch_norm=model.batch_norm),
        ),
    )


def probe_other_rates(builder: ReportBuilder, trial: Trial) -> None:
    """Tries other learning rates on a network that does not learn.

    Args:
      builder: Collector of the findings.
      trial: Network, which is reset.
    """
    config = trial.config
    for factor in _RATES:
        trial.reset()
        losses = probes.fall(
            trial.step,
            rate=factor * trial.rate,
            steps=_RATE_STEPS,
            seconds=builder.remaining_seconds(),
            num_classes=trial.num_classes,
        )
        if losses:
            found = recipe.wrong_rate(
                losses,
                factor=factor,
                peak_learning_rate=config.optimizer.peak_learning_rate,
                batch_norm=config.model.batch_norm,
                optimizer=config.optimizer.name,
                usual=recipe.rule_of_thumb(
                    optimizer=config.optimizer.name,
                    global_batch_size=config.global_batch_size,
                    batch_norm=config.model.batch_norm,
                    pretrained=bool(config.model.weights),
                ),
            )
            builder.add("learning_rate", found)
            return
