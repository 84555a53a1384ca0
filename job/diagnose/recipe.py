"""Checks of a training recipe: learning rate, decay, length, augmentation.

    check_weight_decay(settings)

The checks need neither TensorFlow nor data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from job.config import augmentation
from job.diagnose import costs
from job.diagnose.finding import Finding, mistake
from job.diagnose.settings import Settings

# Learning rate of SGD with momentum 0.9 per 128 images of a batch, as in
# published recipes for VGG16 by the linear rule (Goyal et al. 2017,
# arXiv:1706.02677).
_SGD_RATE = 0.1
_SGD_BATCH = 128
# Default learning rate of Adam in Keras and in the paper.
_ADAM_RATE = 1e-3
# Tolerated ratios of a learning rate to the rule. Published recipes for VGG16
# are between 0.5 and 2. A large learning rate is worse than a small one.
_LOWEST_RATIO, _HIGHEST_RATIO = 1 / 10, 3.0

# Coupled weight decay of published VGG16 recipes, 1e-4 to 1e-3. At a learning
# rate of 0.1 it is also the fraction of a weight that a step removes.
_LARGE_DECAY = 4e-3
_SMALL_DECAY_PER_STEP = 1e-5

# Number of epochs from which heavy augmentation increased the accuracy.
_LONG_RUN = 30.0
# Number of epochs of 50,000 images below which no measured run learned much.
_SHORT_RUN = 1.95

# Field of config.augment -> value from which it is heavy.
_HEAVY = {
    "autoaugment": 0.5,
    "randaugment_magnitude": 6.0,
    "cutmix_probability": 0.5,
    "mixup_alpha": 0.5,
    "cutout_pixels": 12.0,
    "rotation_degrees": 30.0,
    "shift": 0.3,
    "shear": 30.0,
    "zoom": 0.4,
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "translate": 9.0,
}


def rule_of_thumb(
    *,
    optimizer: str,
    global_batch_size: int,
    batch_norm: bool = True,
    pretrained: bool = False,
) -> float:
    """Returns the usual peak learning rate.

    It is 0.1 * B / 128 for SGD and 1e-3 for Adam. Without batch normalization,
    or with pretrained weights, it is 0.04 * B / 128, and 3e-4 or 1e-4
    (docs/results.md, naive_rates and transfer_rates).

    Args:
      optimizer: Name of the optimizer, sgd (momentum 0.9) or adam.
      global_batch_size: Number of images per step, B.
      batch_norm: Whether the network has batch normalization.
      pretrained: Whether the network starts from pretrained weights.
    """
    if optimizer == "adam":
        if pretrained:
            return 1e-4
        return _ADAM_RATE if batch_norm else 3e-4
    rate = _SGD_RATE * global_batch_size / _SGD_BATCH
    return rate if batch_norm and not pretrained else 0.4 * rate


def check_rate_rule(run: Settings) -> Finding | None:
    """Compares the peak learning rate with the rule for its batch size.

    A head on a frozen base has no rule, because its features have any scale.
    """
    optimizer, rate = run["optimizer.name"], run["optimizer.peak_learning_rate"]
    batch_size, batch_norm = run["global_batch_size"], run["model.batch_norm"]
    rule = rule_of_thumb(
        optimizer=optimizer,
        global_batch_size=batch_size,
        batch_norm=batch_norm,
        pretrained=run.is_pretrained,
    )
    ratio = rate / rule
    if _LOWEST_RATIO <= ratio <= _HIGHEST_RATIO or run.is_frozen:
        return None
    network = " with pretrained weights" if run.is_pretrained else ""
    return _rate_finding(
        f"{optimizer} at {rate:g} with {batch_size} images per step is"
        f" {ratio:.3g} times the usual {rule:g}",
        better=f"{rule:g}",
        is_low=ratio < 1,
        optimizer=optimizer,
        batch_norm=batch_norm,
        network=network,
    )


def wrong_rate(
    losses: Sequence[float],
    *,
    factor: float,
    peak_learning_rate: float,
    batch_norm: bool,
    optimizer: str,
    usual: float,
) -> Finding:
    """Returns the finding of a network that needs another learning rate.

    Args:
      losses: Losses of one batch at the other learning rate, one per step.
      factor: Ratio of the other learning rate to that of the run.
      peak_learning_rate: Learning rate of the run.
      batch_norm: Whether the network has batch normalization.
      optimizer: Name of the optimizer.
      usual: Usual learning rate; see `rule_of_thumb`. It is the fix if it is
        between the two others.
    """
    better = factor * peak_learning_rate
    if (
        min(better, peak_learning_rate)
        <= usual
        <= max(better, peak_learning_rate)
    ):
        better = usual
    return _rate_finding(
        f"the loss of one batch does not fall at {peak_learning_rate:g}, but at"
        f" {factor:g} times this learning rate it falls from {losses[0]:.2f} to"
        f" {losses[-1]:.2f} in {len(losses) - 1} steps",
        better=f"{better:.2g}",
        is_low=factor > 1,
        optimizer=optimizer,
        batch_norm=batch_norm,
    )


def _rate_finding(
    evidence: str,
    *,
    better: str,
    is_low: bool,
    optimizer: str,
    batch_norm: bool,
    network: str = "",
) -> Finding:
    """Returns the finding of a learning rate that is too low or too high."""
    if not batch_norm:
        network = network or " without batch normalization"
    direction = "low" if is_low else "high"
    cost = costs.RATE_TOO_LOW if is_low else costs.RATE_TOO_HIGH
    if not is_low and optimizer == "adam" and not batch_norm:
        cost = costs.DEEP_RATE
    return mistake(
        "learning_rate",
        evidence,
        title=f"The learning rate is too {direction}{network}",
        cost=cost,
        flags=(f"--config.optimizer.peak_learning_rate={better}",),
    )


def check_constant_rate(run: Settings) -> Finding | None:
    """Looks for a learning rate that never decreases."""
    epochs, warmup_epochs = run.epochs, run["optimizer.warmup_epochs"]
    is_constant = run["optimizer.schedule"] == "constant"
    if run.is_frozen or (not is_constant and warmup_epochs < epochs):
        return None
    seen = f"a warm-up of {warmup_epochs:g} epochs in a run of {epochs:g}"
    flags = [f"--config.optimizer.warmup_epochs={epochs / 5:.3g}"]
    if is_constant:
        seen = f"epoch {epochs:g} has the learning rate of the first epoch"
        flags.append("--config.optimizer.schedule=linear")
    return mistake("constant_rate", seen, flags=tuple(flags))


def check_warmup(run: Settings) -> Finding | None:
    """Looks for SGD without a warm-up in a short run."""
    if (
        run.is_frozen
        or run["optimizer.name"] != "sgd"
        or run["optimizer.warmup_epochs"]
        or run.epochs >= _LONG_RUN
    ):
        return None
    return mistake(
        "no_warmup",
        f"0 warm-up epochs of {run.epochs:g}",
        cost=costs.NO_WARMUP,
        flags=(f"--config.optimizer.warmup_epochs={run.epochs / 5:.3g}",),
    )


def check_augmentation(run: Settings) -> Finding | None:
    """Looks for a run without augmentation."""
    if run.is_frozen or augmentation.is_enabled(run.augment):
        return None
    return mistake(
        "no_augmentation",
        "the flip is none, and"
        f" {len(augmentation.strengths(run.augment))} strengths are 0",
        cost=costs.NO_AUGMENTATION_SYNTHETIC
        if run.is_synthetic
        else costs.NO_AUGMENTATION,
        flags=(
            "--config.augment.flip=alternating",
            "--config.augment.translate=2",
        ),
    )


def heavy_augmentation(augment: Mapping[str, Any]) -> list[str]:
    """Returns the heavy fields of an augmentation as NAME=VALUE.

    Args:
      augment: Fields of `config.augment`.
    """
    return [
        f"{name}={augment[name]:g}"
        for name, limit in _HEAVY.items()
        if augment[name] >= limit
    ]


def light_augmentation(heavy: Sequence[str]) -> tuple[str, ...]:
    """Returns the flags that replace heavy augmentation by light augmentation.

    Args:
      heavy: Heavy fields; see `heavy_augmentation`.
    """
    names = [each.partition("=")[0] for each in heavy]
    return (
        "--config.augment.flip=alternating",
        *(f"--config.augment.{n}=0" for n in names if n != "translate"),
        "--config.augment.translate=2",
    )


def check_over_augmentation(run: Settings) -> Finding | None:
    """Looks for heavy augmentation in a short run."""
    heavy = heavy_augmentation(run.augment)
    if len(heavy) < 2 or run.epochs >= _LONG_RUN:
        return None
    return mistake(
        "over_augmentation",
        f"{run.epochs:g} epochs with {', '.join(heavy)}",
        title="Too much augmentation for a run of this length",
        cost=costs.OVER_AUGMENTED,
        flags=light_augmentation(heavy),
    )


def check_budget(run: Settings) -> Finding | None:
    """Looks for a run that is too short for learning."""
    epochs, width = run.full_epochs, run["model.width"]
    if run.is_frozen or run.is_synthetic or epochs >= _SHORT_RUN:
        return None
    return mistake(
        "short_run",
        f"{run.train_steps:,} steps are {epochs:.2g} epochs of all 50,000"
        f" images; {costs.expected_accuracy(width, epochs)}",
        flags=longer_run(8, train_images=run["data.train_images"]),
    )


def longer_run(epochs: int, *, train_images: int) -> tuple[str, ...]:
    """Returns the flags of a longer run on all images.

    Args:
      epochs: Length of the longer run in epochs.
      train_images: Current number of training images. If 0, all of them.
    """
    flags = (f"--config.epochs={epochs}", "--config.steps=0")
    return (*flags, "--config.data.train_images=0") if train_images else flags


def decay_per_step(
    *,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> float:
    """Returns the fraction of a weight that weight decay removes per step.

    Momentum multiplies coupled decay (SGD of this job and of PyTorch) by
    1 / (1 - momentum). It does not affect decoupled decay (AdamW and all Keras
    optimizers).

    Args:
      optimizer: Name of the optimizer. sgd is coupled, others are decoupled.
      learning_rate: Learning rate of the step.
      weight_decay: Weight decay in the optimizer's own convention.
      momentum: Momentum of SGD.
    """
    gain = 1 / (1 - momentum) if optimizer == "sgd" else 1.0
    return learning_rate * weight_decay * gain


def check_weight_decay(run: Settings) -> Finding | None:
    """Looks for a weight decay in the convention of another optimizer."""
    if run["optimizer.muon_ratio"]:
        return None  # The kernels do not decay.
    optimizer, momentum = run["optimizer.name"], run["optimizer.momentum"]
    weight_decay = run["optimizer.weight_decay"]
    per_step = decay_per_step(
        optimizer=optimizer,
        learning_rate=run["optimizer.peak_learning_rate"],
        weight_decay=weight_decay,
        momentum=momentum,
    )
    # A head on features has a small learning rate and a large decay.
    is_large = min(weight_decay, per_step) >= _LARGE_DECAY
    if optimizer == "sgd" and is_large:
        title = "The weight decay is Keras' value in PyTorch's convention"
        intended = weight_decay * (1 - momentum)
    elif optimizer == "adam" and 0 < per_step < _SMALL_DECAY_PER_STEP:
        title = "The weight decay is SGD's value in AdamW's convention"
        # This value has the effect of 5e-4 with SGD at its usual learning rate.
        intended = 0.05
    else:
        return None
    return mistake(
        "weight_decay",
        f"{optimizer} with {weight_decay:g} removes {per_step:.2g} of a weight"
        " per step; SGD at 0.1 with 5e-4 removes 5e-4",
        title=title,
        flags=(f"--config.optimizer.weight_decay={intended:g}",),
    )
