"""Checks of a run's metrics, result and accuracies.

    check_metrics_stuck(metrics.read(workdir), num_classes=10)
    check_gap(train_accuracy=0.99, test_accuracy=0.77, augmented=False)

The checks take plain values from this job or from another program.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from job.config import augmentation
from job.diagnose import costs
from job.diagnose.finding import Finding, mistake
from job.diagnose.probes import guessing_loss
from job.diagnose.recipe import (
    heavy_augmentation,
    light_augmentation,
    longer_run,
)
from job.diagnose.settings import Settings

# Distance of a mean loss to that of guessing within which a run has not
# learned. The noise of a mean over thousands of images is smaller.
_STUCK = 0.01
# Number of steps after which a warm-up no longer explains the loss of guessing.
_MIN_STEPS = 100
# Gap between training and test accuracy from which a run overfits, in points.
# Good runs of 200 epochs have a gap of 6 (chenyaofo: 99.98 and 94.06).
_GAP = 10.0
# Accuracy on training images, 0 to 1, below which a run underfits, and the
# largest gap to the test images of such a run, in points.
_LEARNED, _UNDERFIT_GAP = 0.9, 3.0
# Accuracy on training images, 0 to 1, below which a run has not learned them.
_UNDERFIT = 0.7
# Loss of accuracy by the moving statistics that exceeds noise, in points.
_STATISTICS = 10.0
# Fraction of the planned steps from which a run is checked for underfitting.
LATE = 0.8

_Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Accuracies of a checkpoint.

    Attributes:
      step: Number of completed steps.
      train: Accuracy on training images without augmentation, 0 to 1.
      test: Accuracy on test images, 0 to 1.
    """

    step: int
    train: float
    test: float

    @property
    def gap(self) -> float:
        """Returns the training accuracy minus the test accuracy, in points."""
        return 100 * (self.train - self.test)


def complete_lines(lines: Sequence[_Line]) -> list[_Line]:
    """Returns the lines with all fields that the checks need.

    A loss of null, which stands for a non-finite one, becomes NaN.

    Args:
      lines: Lines of metrics.jsonl.
    """
    numbers = ("step", "epoch", "loss", "accuracy")
    lines = [
        {**line, "loss": math.nan} if line.get("loss", 0.0) is None else line
        for line in lines
    ]
    return [
        line
        for line in lines
        if all(isinstance(line.get(name), int | float) for name in numbers)
    ]


def check_metrics_stuck(
    lines: Sequence[_Line], *, num_classes: int
) -> Finding | None:
    """Looks for a training loss that does not fall below that of guessing.

    Args:
      lines: Complete lines of metrics.jsonl.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    train = [line for line in lines if line["split"] == "train"]
    if not train or train[-1]["step"] < _MIN_STEPS:
        return None
    last = [line["loss"] for line in train[-3:]]
    if any(abs(loss - chance) > _STUCK for loss in last):
        return None
    return mistake(
        "stuck_at_chance",
        f"training loss {last[-1]:.4f} after {train[-1]['step']:,} steps;"
        f" guessing gives ln {num_classes} = {chance:.4f}",
        title=f"The run does not learn, and the loss stays at ln {num_classes}",
        flags=(
            "--config.model.batch_norm=true",
            "--config.model.init=he_fan_out",
        ),
    )


def check_diverged(
    run: Settings,
    lines: Sequence[_Line],
    result: Mapping[str, Any],
    failure: Mapping[str, Any],
) -> Finding | None:
    """Looks for losses that are not finite.

    Args:
      run: Settings of the run.
      lines: Lines of metrics.jsonl.
      result: Contents of result.json. Empty if the run has not ended.
      failure: Contents of failure.json. Empty if the run did not diverge.
    """
    bad = [line for line in lines if not math.isfinite(line.get("loss", 0.0))]
    rollbacks = result.get("rollbacks", 0)
    if not bad and not rollbacks and not failure:
        return None
    seen = [f"loss {bad[0]['loss']} at step {bad[0]['step']:,}"] if bad else []
    if failure:
        seen.append(failure.get("error", "a value was not finite"))
    if rollbacks:
        seen.append(f"{rollbacks} rollbacks, each at half the learning rate")
    rate = run["optimizer.peak_learning_rate"] / 10
    flags = [f"--config.optimizer.peak_learning_rate={rate:.2g}"]
    if not run["model.batch_norm"]:
        flags.append("--config.optimizer.clip_norm=1")
    return mistake("diverged", "; ".join(seen), flags=tuple(flags))


def check_gap(run: Settings, scores: Scores) -> Finding | None:
    """Looks for a network that has memorized its training images."""
    if scores.gap < _GAP:
        return None
    augmented = augmentation.is_enabled(run.augment)
    flags: tuple[str, ...] = (
        "--config.augment.flip=alternating",
        "--config.augment.translate=2",
    )
    if augmented:
        flags = ("--config.augment.preset=strong", "--config.epochs=100")
    return mistake(
        "memorized",
        f"accuracy {100 * scores.train:.1f}% on training images and"
        f" {100 * scores.test:.1f}% on others, a gap of {scores.gap:.1f}"
        " points",
        title="The network has memorized its training images"
        + ("" if augmented else ", and augmentation is off"),
        flags=flags,
    )


def check_over_augmented(run: Settings, scores: Scores) -> Finding | None:
    """Looks for augmentation that prevents learning of the training images."""
    heavy = heavy_augmentation(run.augment)
    if len(heavy) < 2 or scores.train >= _LEARNED or scores.gap > _UNDERFIT_GAP:
        return None
    return mistake(
        "over_augmentation",
        f"accuracy {100 * scores.train:.1f}% on training images without"
        f" augmentation and {100 * scores.test:.1f}% on others, with"
        f" {', '.join(heavy)}",
        cost=costs.OVER_AUGMENTED,
        flags=light_augmentation(heavy),
    )


def check_underfit(
    run: Settings, scores: Scores, lines: Sequence[_Line]
) -> Finding | None:
    """Looks for a run that ended before it had learned its training images."""
    if run.is_frozen or run.is_synthetic:
        return None  # The measured budgets do not apply.
    if scores.train >= _UNDERFIT or scores.gap >= _GAP:
        return None
    train = [line["accuracy"] for line in lines if line["split"] == "train"]
    seen = f"accuracy {100 * scores.train:.1f}% on training images and"
    seen += f" {100 * scores.test:.1f}% on others after {scores.step:,} steps"
    if len(train) > 2 and train[-1] > train[-len(train) // 3] + 0.01:
        seen += ", and the training accuracy was still rising"
    epochs = run.full_epochs_of(scores.step)
    return mistake(
        "underfit",
        f"{seen}. These are {epochs:.2g} epochs of all 50,000 images;"
        f" {costs.expected_accuracy(run['model.width'], epochs)}",
        flags=longer_run(
            max(8, 2 * math.ceil(epochs)),
            train_images=run["data.train_images"],
        ),
    )


def check_running_moments(
    *, by_batch: float, by_running: float, images: int
) -> Finding | None:
    """Looks for moving statistics that differ from those of the images.

    Args:
      by_batch: Accuracy with the statistics of the batch, 0 to 1.
      by_running: Accuracy on the same images with the moving statistics, 0 to
        1.
      images: Number of images.
    """
    points = 100 * (by_batch - by_running)
    if points < _STATISTICS:
        return None
    return mistake(
        "running_moments",
        f"accuracy {100 * by_running:.1f}% with the moving statistics and"
        f" {100 * by_batch:.1f}% with those of the batch, on the same {images}"
        " images",
        cost=costs.of_this_model(points, "keras PR #9965, tf #46488"),
    )
