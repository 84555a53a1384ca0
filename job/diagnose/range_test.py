"""The learning rate range test of Smith 2017, arXiv:1506.01186.

    pairs = losses_by_rate(train_step, rates=np.geomspace(1e-4, 10, 40), ...)
    test = analyze(pairs, num_classes=10)
    test.best                   # rate at which the loss decreases fastest

The learning rate increases from step to step, always on the same batch.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from job.diagnose import costs, probes
from job.diagnose.finding import Finding
from job.output.plotting import plt

# Decrease of the smoothed loss that counts as one.
_DECREASE = 0.3
# Increase of the smoothed loss over the first one that counts as divergence, in
# losses of guessing. A smaller one may be a momentum that a warm-up would have
# tamed.
_INCREASE = 2.0


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Result of a range test.

    Attributes:
      rates: Learning rates, ascending.
      losses: Loss at each rate.
      smooth: Smoothed losses, up to a divergence.
      best: Rate at which the smoothed loss decreased fastest. None if it never
        decreased.
      breaks: First rate at which the loss had diverged. None if it never
        diverged.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    best: float | None
    breaks: float | None


def losses_by_rate(
    train_step: probes.TrainStep,
    *,
    rates: Sequence[float],
    seconds: float,
    num_classes: int,
) -> list[tuple[float, float]]:
    """Trains with an increasing learning rate; returns (rate, loss) pairs.

    All steps are on one batch: so few steps on new ones would show how batches
    differ. It ends where the loss has diverged.

    Args:
      train_step: Function that makes a step on always the same batch.
      rates: Learning rates, ascending.
      seconds: Seconds of `budget.clock` after which no further step begins.
        The first step may compile.
      num_classes: Number of classes.
    """
    pairs: list[tuple[float, float]] = []
    for pair in probes.run_steps(train_step, rates, seconds):
        pairs.append(pair)
        if analyze(pairs, num_classes=num_classes).breaks is not None:
            break
    return pairs


def analyze(
    pairs: Sequence[tuple[float, float]], *, num_classes: int
) -> RangeTest:
    """Finds where the loss decreases fastest and where it diverges.

    Args:
      pairs: Pairs that `losses_by_rate` returned.
      num_classes: Number of classes.
    """
    increase = _INCREASE * probes.guessing_loss(num_classes)
    smooth: list[float] = []
    breaks = None
    mean = 0.0
    for count, (rate, loss) in enumerate(pairs, start=1):
        if not math.isfinite(loss):
            breaks = rate
            break
        # Exponential moving average, corrected for its initial 0.
        mean = 0.7 * mean + 0.3 * loss
        smooth.append(mean / (1 - 0.7**count))
        if smooth[-1] > smooth[0] + increase:
            breaks = rate
            break
    rates = tuple(rate for rate, _ in pairs)
    best = None
    if smooth and min(smooth) < smooth[0] - _DECREASE:
        until = int(np.argmin(smooth))
        best = rates[int(np.argmin(np.diff(smooth[: until + 1])))]
    return RangeTest(
        rates, tuple(loss for _, loss in pairs), tuple(smooth), best, breaks
    )


def check_range(
    test: RangeTest,
    *,
    rate: float,
    peak_learning_rate: float,
    learned: bool,
    images: int,
    plot_name: str = "",
) -> Finding | None:
    """Looks for a network that would learn at another learning rate.

    Args:
      test: Result of the range test.
      rate: Learning rate of the run, scaled to the batch of the test.
      peak_learning_rate: Learning rate of the run, for its own batch size.
      learned: Whether one batch was learned at `rate`. Then it is a good one.
      images: Number of images in the batch.
      plot_name: File name of the plot. Empty if there is none.
    """
    if learned or test.best is None:
        return None
    ratio = test.best / rate
    direction = "low" if ratio > 1 else "high"
    return Finding(
        "learning_rate",
        f"The learning rate is too {direction}",
        f"at the run's rate, {rate:.2g} for a batch of {images}, one batch is"
        f" not learned; its loss falls fastest at {test.best:.2g}"
        + (f"; see {plot_name}" if plot_name else ""),
        costs.RATE_TOO_LOW if ratio > 1 else costs.RATE_TOO_HIGH,
        flags=(
            "--config.optimizer.peak_learning_rate="
            f"{peak_learning_rate * ratio:.2g}",
        ),
    )


def too_high(
    losses: Sequence[float],
    *,
    rate: float,
    better: float,
    peak_learning_rate: float,
    batch_norm: bool,
    adam: bool,
) -> Finding:
    """Returns the finding of a network that learns at a lower rate only.

    Args:
      losses: Losses of the steps at the lower rate.
      rate: That rate, for the batch of the probe.
      better: That rate, for the batch of the run.
      peak_learning_rate: Learning rate of the run.
      batch_norm: Whether the network has batch normalization.
      adam: Whether the optimizer is Adam.
    """
    network = "" if batch_norm else " for a network without normalization"
    return Finding(
        "learning_rate",
        f"The learning rate is too high{network}",
        f"at {peak_learning_rate:g} the loss of one batch does not fall; at"
        f" {rate:.2g} it falls from {losses[0]:.2f} to {losses[-1]:.2f} in"
        f" {len(losses) - 1} steps",
        costs.DEEP_RATE if adam and not batch_norm else costs.RATE_TOO_HIGH,
        flags=(f"--config.optimizer.peak_learning_rate={better:.2g}",),
    )


def plot(
    test: RangeTest,
    path: pathlib.Path,
    *,
    rate: float,
    images: int,
    num_classes: int,
) -> None:
    """Plots the loss over the learning rate, with the run's rate.

    Args:
      test: Result of the range test.
      path: Path of the PNG file.
      rate: Learning rate of the run, scaled to the batch of the test.
      images: Number of images in the batch.
      num_classes: Number of classes.
    """
    chance = probes.guessing_loss(num_classes)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    count = len(test.smooth)
    axes.plot(test.rates[:count], test.losses[:count], ".", color="#999999")
    axes.plot(test.rates[:count], test.smooth, color="#0072B2", label="loss")
    axes.axhline(
        chance, color="#000000", linestyle=":", label=f"ln {num_classes}"
    )
    axes.axvline(rate, color="#009E73", label="the run's rate")
    if test.breaks is not None:
        axes.axvline(
            test.breaks, color="#D55E00", linestyle="--", label="explodes"
        )
    axes.set_xscale("log")
    # A diverged loss would compress all others into a line.
    axes.set_ylim(0, 2 * max(chance, test.losses[0]))
    axes.set_xlabel(f"learning rate at a batch of {images}")
    axes.set_ylabel("training loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
