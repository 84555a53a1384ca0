"""Checks that run some training steps on one batch.

A probe calls a function that runs a step, and returns the losses. A check
evaluates the losses and needs no model, so other programs can use it too.

    losses = overfit(train_step, rate=0.1, steps=40, seconds=20)
    check_learning(losses, batch_norm=False, ...)
"""

import math
from collections.abc import Callable, Iterator, Sequence

from job.diagnose import budget
from job.diagnose.finding import Finding, mistake

# (learning rate) -> loss of the next batch before the update.
TrainStep = Callable[[float], float]

# Number of images and number of steps of a probe.
BATCH = 32
STEPS = 40
# Number of steps after which a constant loss is conclusive.
_MIN_STEPS = 10

# Distance to the loss of guessing within which nothing was learned. Guessing by
# the class frequencies of a batch reduces the loss by 0.02.
_STUCK = 0.05
# Distance below the loss of guessing that shows learning.
_FALL = 0.15
# Fraction of the loss of guessing below which one batch is learned.
_LEARNED = 0.5
_MEMORIZED = 0.1
# Ratio of a first loss to that of guessing that exceeds noise.
_FIRST_LOSS = 4.0
# Fraction of dead units from which a layer is dead.
_DEAD = 0.9


def guessing_loss(num_classes: int) -> float:
    """Returns the cross-entropy of a uniform guess, in nats.

    Args:
      num_classes: Number of classes.
    """
    return math.log(num_classes)


def run_steps(
    train_step: TrainStep, rates: Sequence[float], seconds: float
) -> Iterator[tuple[float, float]]:
    """Runs one training step per learning rate and yields its loss.

    Each item is (learning rate, loss). The first non-finite loss is the last.

    Args:
      train_step: Function that runs a step on a fixed batch.
      rates: Learning rate of each step.
      seconds: Time limit in seconds of `budget.clock`. At least one step runs.
    """
    end = budget.clock() + seconds
    for rate in rates:
        loss = train_step(rate)
        yield rate, loss
        if not math.isfinite(loss) or budget.clock() > end:
            return


def overfit(
    train_step: TrainStep, *, rate: float, steps: int, seconds: float
) -> list[float]:
    """Trains on one batch and returns the losses, each before its update.

    The training ends if the batch is memorized or a loss is not finite.

    Args:
      train_step: Function that runs a step on a fixed batch.
      rate: Learning rate of the steps.
      steps: Maximum number of steps.
      seconds: Time limit in seconds of `budget.clock`. At least one step runs.
    """
    losses = []
    for _, loss in run_steps(train_step, [rate] * steps, seconds):
        losses.append(loss)
        if loss < _MEMORIZED:
            break
    return losses


def fall(
    train_step: TrainStep,
    *,
    rate: float,
    steps: int,
    seconds: float,
    num_classes: int,
) -> list[float]:
    """Trains on one batch until its loss falls below that of guessing.

    Args:
      train_step: Function that runs a step on a fixed batch.
      rate: Learning rate of the steps.
      steps: Maximum number of steps.
      seconds: Time limit in seconds of `budget.clock`. At least one step runs.
      num_classes: Number of classes.

    Returns:
      Losses until then, or [] if the loss did not fall.
    """
    losses = []
    wanted = guessing_loss(num_classes) - _FALL
    for _, loss in run_steps(train_step, [rate] * steps, seconds):
        losses.append(loss)
        if len(losses) >= 5 and max(losses[-5:]) < wanted:
            return losses
    return []


def is_conclusive(losses: Sequence[float], *, num_classes: int) -> bool:
    """Returns whether the losses suffice for `check_learning`.

    Args:
      losses: Losses of one batch; see `overfit`.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    unmoved = len(losses) >= _MIN_STEPS and _is_stuck(losses, chance)
    return (
        len(losses) >= STEPS
        or unmoved
        or not math.isfinite(losses[-1])
        or losses[-1] < _LEARNED * chance
    )


def _is_stuck(losses: Sequence[float], chance: float) -> bool:
    return min(losses[-5:]) > chance - _STUCK


def check_first_loss(loss: float, *, num_classes: int) -> Finding | None:
    """Compares the loss before the first step with that of guessing.

    Args:
      loss: Loss before the first step, in nats.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    if loss <= _FIRST_LOSS * chance:
        return None
    return mistake(
        "first_loss",
        f"first loss {loss:.2f}; guessing gives ln {num_classes} ="
        f" {chance:.3f}",
        flags=(
            "--config.model.init=he_fan_out",
            "--config.model.preprocessing=auto",
        ),
    )


def check_learning(
    losses: Sequence[float],
    *,
    batch_norm: bool,
    rate: float,
    peak_learning_rate: float,
    images: int,
    num_classes: int,
) -> Finding | None:
    """Looks for a network that cannot memorize one batch.

    Args:
      losses: Conclusive losses of one batch; see `is_conclusive`.
      batch_norm: Whether the network has batch normalization.
      rate: Learning rate of the probe.
      peak_learning_rate: Learning rate of the run, for its own batch size.
      images: Number of images in the batch.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    seen = (
        f"loss {losses[0]:.3f} before and {losses[-1]:.3f} after"
        f" {len(losses) - 1} steps on the same {images} images (learning rate"
        f" {rate:g}); guessing gives ln {num_classes} = {chance:.3f}"
    )
    if not math.isfinite(losses[-1]):
        return mistake(
            "overfit_one_batch",
            seen,
            flags=(
                "--config.optimizer.peak_learning_rate="
                f"{peak_learning_rate / 10:.2g}",
            ),
        )
    if _is_stuck(losses, chance):
        return mistake(
            "stuck_at_chance",
            seen,
            title="The network does not learn, and the loss stays at ln"
            f" {num_classes}",
            flags=fixes(batch_norm=batch_norm),
        )
    if min(losses[-5:]) > _LEARNED * chance:
        return mistake(
            "overfit_one_batch",
            seen,
            title="The network cannot memorize one batch",
        )
    return None


def check_dead_relus(
    fractions: Sequence[tuple[str, float]],
    images: int,
    *,
    flags: tuple[str, ...] = (),
) -> Finding | None:
    """Looks for layers in which most units are 0 for all images.

    Args:
      fractions: Name and fraction of dead units of each layer; see
        `layers.dead_fractions`.
      images: Number of images.
      flags: Flags of the job that fix the mistake. Empty for a Keras model.
    """
    dead = [one for one in fractions if one[1] >= _DEAD]
    if not dead:
        return None
    worst, fraction = max(dead, key=lambda one: one[1])
    return mistake(
        "dead_relus",
        f"{fraction:.0%} of {worst}'s units are 0 for all of {images}"
        f" images; {len(dead)} of {len(fractions)} layers have {_DEAD:.0%} dead"
        " units or more",
        fix=""
        if flags
        else "add BatchNormalization before each ReLU, or divide the learning"
        " rate by 10",
        flags=flags,
    )


def fixes(*, batch_norm: bool) -> tuple[str, ...]:
    """Returns the flags for a network with dead units or vanishing gradients.

    Args:
      batch_norm: Whether the network has batch normalization.
    """
    flags = ("--config.model.init=he_fan_out",)
    return flags if batch_norm else ("--config.model.batch_norm=true", *flags)
