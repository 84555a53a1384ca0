"""Checks that read fields alone; no TensorFlow, no data.

check_weight_decay(optimizer="sgd", weight_decay=5e-3, ...)
check_fields(config.flatten(cfg), num_images=50_000, replicas=1)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from job.config.ranges import INFINITE
from job.diagnose import costs
from job.diagnose.finding import Finding
from job.model import spec

# Learning rate of SGD with momentum .9, for each 128 images of a batch: what
# all anchors for VGG16 have, by the linear rule (Goyal et al. 2017,
# arXiv:1706.02677).
_SGD_RATE = 0.1
_SGD_BATCH = 128
# Keras' own, and the paper's.
_ADAM_RATE = 1e-3
# So far may a rate be from the rule. Published recipes for VGG16 lie within
# half and twice of it; larger rates break sooner than smaller ones.
_RATE_BELOW, _RATE_ABOVE = 1 / 10, 4.0

# Below that many images a replica, batch moments are noise (Wu & He 2018,
# arXiv:1803.08494).
_SMALL_BATCH = 16

# Share of the old moments beyond which few steps may not be enough.
_QUICK_MOMENTUM = 0.9
_MOMENT_TURNOVERS = 10

# Coupled weight decay of published VGG16 recipes: 1e-4 to 1e-3.
_LARGE_DECAY = 4e-3
_SMALL_DECAY_A_STEP = 1e-5

# Epochs from which heavy augmentation has been seen to pay.
_LONG_RUN = 30.0
# Epochs, below which convolutions cannot have learnt much.
_SHORT_RUN = 2.0


def rule_of_thumb(*, optimizer: str, global_batch_size: int) -> float:
    """Returns the usual peak rate: .1 * B / 128 of SGD, .001 of Adam."""
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
    """Compares the peak rate with the rule for its batch; from scratch only.

    Args:
      optimizer: sgd (momentum .9) or adam.
      peak_learning_rate: after the warm-up.
      global_batch_size: images a step.
      pretrained: weights that are there already want smaller rates.
    """
    rule = rule_of_thumb(
        optimizer=optimizer, global_batch_size=global_batch_size
    )
    ratio = peak_learning_rate / rule
    if pretrained or _RATE_BELOW <= ratio <= _RATE_ABOVE:
        return None
    side = "low" if ratio < 1 else "high"
    return Finding(
        "rate_rule",
        f"the learning rate is too {side} for the batch",
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
    """Looks for a rate that never falls.

    Args:
      schedule: cosine, linear or constant.
      warmup_epochs: in which it rises.
      global_batch_size: for the remedy's rate.
      epochs: of the run.
      frozen: only a head is trained, which needs no schedule: .3 points of
        which the same table says that they are within its error.
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


def check_large_head(
    *,
    head_units: Sequence[int],
    input_size: int,
    width: float,
    flatten: bool,
    num_classes: int = 10,
) -> Finding | None:
    """Looks for dense layers with more weights than all convolutions.

    Args:
      head_units: of the dense layers before the logits.
      input_size: side of the images in pixels.
      width: multiplies the convolutions' filters.
      flatten: the last map is flattened, not averaged.
      num_classes: Number of classes.
    """
    shapes = [*spec.kernel_shapes(width=width).values()]
    convolutions = sum(math.prod(shape) for shape in shapes)
    channels = shapes[-1][-1]
    side = input_size // 32 if flatten else 1
    head, features = 0, side * side * channels
    for units in (*head_units, num_classes):
        head += features * units
        features = units
    if head <= convolutions:
        return None
    return Finding(
        "large_head",
        "the head has more weights than the convolutions",
        f"{head / 1e6:.1f} million in the head, {convolutions / 1e6:.1f}"
        f" million in the convolutions, on a map of {side} x {side}",
        costs.LARGE_HEAD,
        (
            '--config.model.head_units="()" --config.model.dropout=0'
            " --config.model.head_pooling=avg",
        ),
    )


def check_frozen_base(*, side: int, frozen: bool) -> Finding | None:
    """Looks for a frozen base whose last map is a single pixel.

    Args:
      side: of the last map, in pixels: of VGG16, the images' by 32.
      frozen: no convolution ever trains.
    """
    if not frozen or side >= 2:
        return None
    return Finding(
        "frozen_base",
        f"the whole base is frozen, and its last map is {side} x {side}",
        f"{side} pixel is left of an image after the last convolution, and 0"
        " convolutions train",
        costs.FROZEN_AT_32,
        (
            "--config=configs/transfer.py, which opens block by block"
            " (transfer.unfreeze_epochs), with SGD at .08",
        ),
    )


def check_augmentation(
    *, augment: Mapping[str, Any], drawn: bool, frozen: bool
) -> Finding | None:
    """Looks for a run that shows each image in one way only.

    Args:
      augment: the fields of `config.augment`.
      drawn: the images are the synthetic source's.
      frozen: only a head is trained, on features that are computed once.
    """
    strengths = {k: v for k, v in augment.items() if _is_strength(k)}
    if frozen or augment["flip"] != "none" or any(strengths.values()):
        return None
    return Finding(
        "no_augmentation",
        "there is no augmentation",
        f"flip none and {len(strengths)} strengths of 0",
        costs.NO_AUGMENTATION_DRAWN if drawn else costs.NO_AUGMENTATION,
        ("--config.augment.flip=alternating --config.augment.translate=2",),
    )


def heavy_augmentation(augment: Mapping[str, Any]) -> list[str]:
    """Returns those of `config.augment`'s fields that are set to much."""
    limits = {
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
    return [
        f"{name}={augment[name]:g}"
        for name, limit in limits.items()
        if augment[name] >= limit
    ]


def check_over_augmentation(
    *, augment: Mapping[str, Any], epochs: float
) -> Finding | None:
    """Looks for much augmentation in a short run.

    Args:
      augment: the fields of `config.augment`.
      epochs: of the run.
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
    """Looks for a run that ends before it has learnt much.

    Args:
      epochs: of the run.
      steps: likewise.
      frozen: only a head is trained.
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


def check_batch_norm(
    *, batch_norm: bool, pretrained: bool, learns: bool | None
) -> Finding | None:
    """Looks for a deep network that is to be trained without.

    Args:
      batch_norm: whether the network has it.
      pretrained: it starts from weights that were trained without.
      learns: what a probe saw (see `probes.check_learning`); None: no probe.
    """
    if batch_norm or pretrained:
        return None
    seen = {
        True: "though it learnt one batch",
        False: "and it did not learn one batch",
        None: "and it was not tried on a batch",
    }
    return Finding(
        "no_batch_norm",
        "there is no batch normalization",
        f"0 normalization layers after 13 convolutions, {seen[learns]}",
        costs.NO_BATCH_NORM if learns else costs.STUCK,
        ("--config.model.batch_norm=true",),
    )


def check_replica_batch(
    *,
    batch_norm: bool,
    synchronized: bool,
    global_batch_size: int,
    replicas: int,
) -> Finding | None:
    """Looks for batch moments over too few images.

    Args:
      batch_norm: whether the network has it.
      synchronized: the moments are taken over all replicas.
      global_batch_size: images a step.
      replicas: that share them.
    """
    size = global_batch_size // (1 if synchronized else replicas)
    if not batch_norm or size >= _SMALL_BATCH:
        return None
    remedy = f"--config.global_batch_size={2 * _SMALL_BATCH * replicas}"
    if replicas > 1:
        remedy += " or --config.distribute.sync_batch_norm=true"
    return Finding(
        "replica_batch",
        "batch normalization over too few images",
        f"{size} images share their moments ({global_batch_size} a step,"
        f" {replicas} replicas); below {_SMALL_BATCH} they are noise",
        costs.SMALL_REPLICA_BATCH,
        (remedy,),
    )


def check_batch_norm_momentum(
    *, batch_norm: bool, momentum: float, steps: int
) -> Finding | None:
    """Looks for running moments that cannot arrive within the run.

    Args:
      batch_norm: whether the network has it.
      momentum: share of the old moments that a step keeps.
      steps: of the run.
    """
    turnovers = steps * (1 - momentum)
    if (
        not batch_norm
        or momentum <= _QUICK_MOMENTUM
        or turnovers >= _MOMENT_TURNOVERS
    ):
        return None
    return Finding(
        "batch_norm_momentum",
        "the running moments are too slow for so short a run",
        f"momentum {momentum:g} over {steps} steps: {turnovers:.1f} turnovers,"
        f" of which {_MOMENT_TURNOVERS} are wanted;"
        f" {momentum**steps:.0%} of the moments are still the initial ones",
        costs.BATCH_NORM_MOMENTUM,
        (f"--config.model.batch_norm_momentum={_QUICK_MOMENTUM}",),
    )


def decay_a_step(
    *,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> float:
    """Returns the share that a step takes off a weight, at a steady rate.

    Coupled decay (this job's and torch's SGD) goes through the momentum, which
    makes it 1 / (1 - momentum) times as large; decoupled decay (AdamW, and
    Keras' `weight_decay` of every optimizer) does not.

    Args:
      optimizer: sgd: coupled; else decoupled.
      learning_rate: of the step.
      weight_decay: as the config has it.
      momentum: of SGD.
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
    """Looks for a decay that was meant for another optimizer's meaning of it.

    Args:
      optimizer: sgd (coupled here) or adam (decoupled).
      peak_learning_rate: after the warm-up.
      weight_decay: as the config has it.
      momentum: of SGD.
    """
    a_step = decay_a_step(
        optimizer=optimizer,
        learning_rate=peak_learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
    )
    if optimizer == "sgd" and weight_decay >= _LARGE_DECAY:
        title = "a weight decay as of Keras, coupled as of PyTorch"
        meant = weight_decay * (1 - momentum)
    elif optimizer == "adam" and 0 < a_step < _SMALL_DECAY_A_STEP:
        title = "a weight decay as of SGD, decoupled as of AdamW"
        # What SGD at the usual rate does with it.
        meant = 0.05
    else:
        return None
    return Finding(
        "weight_decay",
        title,
        f"{optimizer} with {weight_decay:g} takes {a_step:.2g} of a weight a"
        f" step; SGD at .1 with 5e-4 takes 5e-4",
        costs.WEIGHT_DECAY,
        (f"--config.optimizer.weight_decay={meant:g}",),
    )


def check_fields(
    fields: Mapping[str, Any],
    *,
    num_images: int,
    replicas: int,
    drawn: bool,
    learns: bool | None,
    num_classes: int = 10,
) -> dict[str, Finding | None]:
    """Makes all of these checks; returns what each one found.

    Args:
      fields: a flattened config, see `config.flatten`.
      num_images: images in the training split.
      replicas: that share a batch.
      drawn: the images are the synthetic source's.
      learns: see `check_batch_norm`.
      num_classes: Number of classes.
    """
    batch = fields["global_batch_size"]
    steps = fields["steps"] or round(fields["epochs"] * num_images / batch)
    epochs = round(steps * batch / num_images, 2)
    frozen = frozen_blocks(fields)
    all_frozen = len(frozen) == len(spec.BLOCK_NAMES)
    augment = {
        name.removeprefix("augment."): value
        for name, value in fields.items()
        if name.startswith("augment.")
    }
    pretrained = bool(fields["model.weights"])
    optimizer = fields["optimizer.name"]
    checks: dict[str, Callable[[], Finding | None]] = {
        "no_batch_norm": lambda: check_batch_norm(
            batch_norm=fields["model.batch_norm"],
            pretrained=pretrained,
            learns=learns,
        ),
        "frozen_base": lambda: check_frozen_base(
            side=fields["model.input_size"] // 32, frozen=all_frozen
        ),
        "over_augmentation": lambda: check_over_augmentation(
            augment=augment, epochs=epochs
        ),
        "short_run": lambda: check_short_run(
            epochs=epochs, steps=steps, frozen=all_frozen
        ),
        "constant_rate": lambda: check_constant_rate(
            schedule=fields["optimizer.schedule"],
            warmup_epochs=fields["optimizer.warmup_epochs"],
            global_batch_size=batch,
            epochs=epochs,
            frozen=all_frozen,
        ),
        "rate_rule": lambda: check_rate_rule(
            optimizer=optimizer,
            peak_learning_rate=fields["optimizer.peak_learning_rate"],
            global_batch_size=batch,
            pretrained=pretrained,
        ),
        "large_head": lambda: check_large_head(
            head_units=fields["model.head_units"],
            input_size=fields["model.input_size"],
            width=fields["model.width"],
            flatten=fields["model.head_pooling"] == "flatten",
            num_classes=num_classes,
        ),
        "no_augmentation": lambda: check_augmentation(
            augment=augment, drawn=drawn, frozen=all_frozen
        ),
        "replica_batch": lambda: check_replica_batch(
            batch_norm=fields["model.batch_norm"],
            synchronized=fields["distribute.sync_batch_norm"],
            global_batch_size=batch,
            replicas=replicas,
        ),
        "batch_norm_momentum": lambda: check_batch_norm_momentum(
            batch_norm=fields["model.batch_norm"],
            momentum=fields["model.batch_norm_momentum"],
            steps=steps,
        ),
        "weight_decay": lambda: check_weight_decay(
            optimizer=optimizer,
            peak_learning_rate=fields["optimizer.peak_learning_rate"],
            weight_decay=fields["optimizer.weight_decay"],
            momentum=fields["optimizer.momentum"],
        ),
    }
    return {name: check() for name, check in checks.items()}


def frozen_blocks(fields: Mapping[str, Any]) -> list[str]:
    """Returns the blocks that never train."""
    return [
        block
        for block in spec.BLOCK_NAMES
        if fields[f"transfer.unfreeze_epochs.{block}"] in (INFINITE, math.inf)
    ]


def _is_strength(name: str) -> bool:
    return name not in ("preset", "flip", "fill")
