"""Checks of a training recipe: rates, decay, length, augmentation, precision.

    check_weight_decay(optimizer="sgd", weight_decay=5e-3, ...)

They need neither TensorFlow nor data.
"""

from collections.abc import Mapping
from typing import Any

from job.config import augmentation
from job.diagnose import costs
from job.diagnose.finding import Finding

# Learning rate of SGD with momentum 0.9 per 128 images of a batch. Published
# recipes for VGG16 agree on it, by the linear rule (Goyal et al. 2017,
# arXiv:1706.02677).
_SGD_RATE = 0.1
_SGD_BATCH = 128
# Default of Keras, and of the paper.
_ADAM_RATE = 1e-3
# Tolerated ratios of a learning rate to the rule. Published recipes for VGG16
# lie between 0.5 and 2. Rates that are too large break a run sooner than rates
# that are too small.
_LOWEST_RATIO, _HIGHEST_RATIO = 1 / 10, 4.0

# Coupled weight decay of published VGG16 recipes: 1e-4 to 1e-3.
_LARGE_DECAY = 4e-3
_SMALL_DECAY_PER_STEP = 1e-5

# Epochs from which heavy augmentation has been seen to pay.
_LONG_RUN = 30.0
# Epochs below which convolutions cannot have learned much.
_SHORT_RUN = 2.0

# Fields of config.augment, and the values from which they count as heavy.
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

# Smallest positive number of float16, 2**-24.
_SMALLEST_FLOAT16 = 2.0**-24


def rule_of_thumb(*, optimizer: str, global_batch_size: int) -> float:
    """Returns the usual peak rate: 0.1 * B / 128 of SGD, 0.001 of Adam.

    Args:
      optimizer: Name of the optimizer, sgd (momentum 0.9) or adam.
      global_batch_size: Number of images per step, B.
    """
    if optimizer == "adam":
        return _ADAM_RATE
    return _SGD_RATE * global_batch_size / _SGD_BATCH


def check_rate_rule(
    *,
    optimizer: str,
    peak_learning_rate: float,
    global_batch_size: int,
    pretrained: bool,
) -> Finding | None:
    """Compares the peak learning rate with the rule for its batch size.

    Args:
      optimizer: Name of the optimizer, sgd (momentum 0.9) or adam.
      peak_learning_rate: Learning rate after the warm-up.
      global_batch_size: Number of images per step.
      pretrained: Whether the network starts from pretrained weights, which
        need smaller rates than the rule's.
    """
    rule = rule_of_thumb(
        optimizer=optimizer, global_batch_size=global_batch_size
    )
    ratio = peak_learning_rate / rule
    if pretrained or _LOWEST_RATIO <= ratio <= _HIGHEST_RATIO:
        return None
    direction = "low" if ratio < 1 else "high"
    return Finding(
        "rate_rule",
        f"the learning rate is too {direction} for the batch",
        f"{optimizer}'s peak rate {peak_learning_rate:g} at"
        f" {global_batch_size} images a step is {ratio:.3g} times the rule's"
        f" {rule:g}",
        costs.RATE_TOO_LOW if ratio < 1 else costs.RATE_TOO_HIGH,
        (f"--config.optimizer.peak_learning_rate={rule:g}",),
    )


def check_constant_rate(
    *,
    schedule: str,
    warmup_epochs: float,
    global_batch_size: int,
    epochs: float,
    frozen: bool,
) -> Finding | None:
    """Looks for a learning rate that never decreases.

    Args:
      schedule: Name of the schedule: cosine, linear or constant.
      warmup_epochs: Number of epochs in which the learning rate increases.
      global_batch_size: Number of images per step, for the suggested rate.
      epochs: Number of epochs of the run.
      frozen: Whether only the head is trained. It needs no schedule: the cost
        would be 0.3 points, which is within the error of the same table.
    """
    if frozen or (schedule != "constant" and warmup_epochs < epochs):
        return None
    warmup = f"--config.optimizer.warmup_epochs={epochs / 5:g}"
    if schedule != "constant":
        return Finding(
            "constant_rate",
            "the learning rate never falls",
            f"a warm-up of {warmup_epochs:g} epochs in a run of {epochs:g}",
            costs.CONSTANT_RATE,
            (warmup,),
        )
    rate = rule_of_thumb(optimizer="sgd", global_batch_size=global_batch_size)
    return Finding(
        "constant_rate",
        "the learning rate never falls",
        f"schedule constant: epoch {epochs:g} is trained as the first one",
        costs.CONSTANT_RATE,
        (
            "--config.optimizer.name=sgd"
            f" --config.optimizer.peak_learning_rate={rate:g}"
            f" --config.optimizer.schedule=linear {warmup}"
            " --config.optimizer.weight_decay=5e-4",
        ),
    )


def check_augmentation(
    *, augment: Mapping[str, Any], synthetic: bool, frozen: bool
) -> Finding | None:
    """Looks for a run without augmentation.

    Args:
      augment: Fields of `config.augment`.
      synthetic: Whether the images are synthetic.
      frozen: Whether only the head is trained, on features that are computed
        once.
    """
    if frozen or augmentation.is_enabled(augment):
        return None
    strengths = augmentation.strengths(augment)
    return Finding(
        "no_augmentation",
        "augmentation is off",
        f"flip none and {len(strengths)} strengths of 0",
        costs.NO_AUGMENTATION_SYNTHETIC if synthetic else costs.NO_AUGMENTATION,
        ("--config.augment.flip=alternating --config.augment.translate=2",),
    )


def heavy_augmentation(augment: Mapping[str, Any]) -> list[str]:
    """Returns the fields with a heavy setting, as NAME=VALUE.

    Args:
      augment: Fields of `config.augment`.
    """
    return [
        f"{name}={augment[name]:g}"
        for name, limit in _HEAVY.items()
        if augment[name] >= limit
    ]


def check_over_augmentation(
    *, augment: Mapping[str, Any], epochs: float
) -> Finding | None:
    """Looks for heavy augmentation in a short run.

    Args:
      augment: Fields of `config.augment`.
      epochs: Number of epochs of the run.
    """
    heavy = heavy_augmentation(augment)
    if len(heavy) < 2 or epochs >= _LONG_RUN:
        return None
    return Finding(
        "over_augmentation",
        "too much augmentation for so short a run",
        f"{epochs:g} epochs with {', '.join(heavy)}",
        costs.OVER_AUGMENTED,
        (
            "--config.augment.flip=alternating --config.augment.translate=2,"
            " the others 0; or --config.epochs=100",
        ),
    )


def check_short_run(
    *, epochs: float, steps: int, frozen: bool
) -> Finding | None:
    """Looks for a run that ends before it has learned much.

    Args:
      epochs: Number of epochs of the run.
      steps: Number of steps of the run.
      frozen: Whether only the head is trained.
    """
    if frozen or epochs >= _SHORT_RUN:
        return None
    return Finding(
        "short_run",
        "the run is too short to learn much",
        f"{epochs:g} epochs, {steps:,} steps",
        costs.SHORT_RUN,
        ("--config.epochs=8 --config.steps=0, or more",),
    )


def decay_per_step(
    *,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> float:
    """Returns the fraction of a weight that a step removes, at a steady rate.

    Coupled decay (SGD of this job and of PyTorch) passes through the momentum,
    which multiplies it by 1 / (1 - momentum). Decoupled decay (AdamW, and
    `weight_decay` of every Keras optimizer) does not.

    Args:
      optimizer: Name of the optimizer. sgd is coupled, others are decoupled.
      learning_rate: Learning rate of the step.
      weight_decay: Weight decay in the optimizer's own convention.
      momentum: Momentum of SGD.
    """
    gain = 1 / (1 - momentum) if optimizer == "sgd" else 1.0
    return learning_rate * weight_decay * gain


def check_weight_decay(
    *,
    optimizer: str,
    peak_learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> Finding | None:
    """Looks for a weight decay in the convention of another optimizer.

    Args:
      optimizer: Name of the optimizer, sgd (coupled here) or adam (decoupled).
      peak_learning_rate: Learning rate after the warm-up.
      weight_decay: Weight decay in the optimizer's own convention.
      momentum: Momentum of SGD.
    """
    per_step = decay_per_step(
        optimizer=optimizer,
        learning_rate=peak_learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
    )
    if optimizer == "sgd" and weight_decay >= _LARGE_DECAY:
        title = "a weight decay as of Keras, coupled as of PyTorch"
        intended = weight_decay * (1 - momentum)
    elif optimizer == "adam" and 0 < per_step < _SMALL_DECAY_PER_STEP:
        title = "a weight decay as of SGD, decoupled as of AdamW"
        # This has the effect of 5e-4 with SGD at its usual rate.
        intended = 0.05
    else:
        return None
    return Finding(
        "weight_decay",
        title,
        f"{optimizer} with {weight_decay:g} takes {per_step:.2g} of a weight a"
        f" step; SGD at .1 with 5e-4 takes 5e-4",
        costs.WEIGHT_DECAY,
        (f"--config.optimizer.weight_decay={intended:g}",),
    )


def check_loss_scaling(*, precision: str, scaled: bool) -> Finding | None:
    """Looks for float16 whose small gradients become 0.

    Args:
      precision: Precision of the gradients.
      scaled: Whether the loss is multiplied by a large number and the
        gradients are divided by it (Micikevicius et al. 2018,
        arXiv:1710.03740).
    """
    if precision != "float16" or scaled:
        return None
    return Finding(
        "loss_scaling",
        "float16 without loss scaling",
        f"gradients below {_SMALLEST_FLOAT16:.0e} become 0",
        costs.LOSS_SCALING,
        (
            "optimizer.scale_loss(loss) in a loop of one's own, with"
            " keras.optimizers.LossScaleOptimizer; or bfloat16, which needs"
            " none",
        ),
    )
