"""Valid values of each config field, and valid combinations of fields.

    ranges.check(config)                # raises ConfigError, naming the field
    ranges.check_replicas(fields, 8)    # once the devices are known

Imports no TensorFlow, so that a wrong value ends the job within a second.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from configs import augment_presets, default
from job import errors
from job.config import serialization

BLOCKS = tuple(default.get_config().transfer.unfreeze_epochs)


@dataclasses.dataclass(frozen=True)
class Range:
    """Valid values of a field.

    Attributes:
      accepts: Predicate of a value that already has the field's type.
      expected: Description of the valid values, for an error message.
    """

    accepts: Callable[[Any], bool]
    expected: str


def _at_least(low: float) -> Range:
    return Range(lambda v: v >= low, f"at least {low}")


def _between(low: float, high: float) -> Range:
    return Range(lambda v: low <= v <= high, f"{low} to {high:,.10g}")


def _above(low: float) -> Range:
    return Range(lambda v: v > low, f"above {low}")


def _fraction() -> Range:
    return Range(lambda v: 0 <= v < 1, "at least 0 and below 1")


def _one_of(*names: str) -> Range:
    return Range(lambda v: v in names, "one of " + ", ".join(names))


def _whole_number(high: int) -> Range:
    return Range(
        lambda v: 0 <= v <= high and v == int(v), f"a whole number, 0 to {high}"
    )


def _tuple_of(accepts: Callable[[Any], bool], expected: str) -> Range:
    return Range(lambda v: all(accepts(x) for x in v), expected)


def _is_input_size(value: Any) -> bool:
    return type(value) is int and 32 <= value <= 512 and value % 32 == 0


def _is_progressive_size(value: Any) -> bool:
    return type(value) is int and 16 <= value <= 512 and value % 8 == 0


# Range of every field that is not a bool.
RANGES: dict[str, Range] = {
    "seed": Range(lambda v: 0 <= v < 2**31, "0 to 2147483647"),
    "epochs": _between(0, 1e6),
    "steps": _between(0, 10**9),
    "global_batch_size": _between(1, 2**20),
    "precision": _one_of("float32", "bfloat16", "float16"),
    "steps_per_loop": _between(0, 10**9),
    "log_every_steps": _between(1, 10**9),
    "jit_compile": _one_of("auto", "on", "off"),
    "data.source": _one_of("auto", "tfds", "binary", "python", "synthetic"),
    "data.dir": Range(
        lambda v: "://" not in v or re.match(r"gs://[^/]+(/|$)", v) is not None,
        "a folder, a .tar.gz or gs:// of one",
    ),
    "data.archive_sha256": Range(
        lambda v: (
            not v
            or (len(v) == 64 and set(v.lower()) <= set("0123456789abcdef"))
        ),
        "64 hexadecimal digits, or empty for the official archive's",
    ),
    "data.validation_fraction": _fraction(),
    "data.validation_fold": _at_least(0),
    "data.train_images": _between(0, 10**6),
    "data.test_images": _between(0, 10**6),
    "data.synthetic_train_images": _between(10, 10**6),
    "data.synthetic_test_images": _between(10, 10**6),
    "model.width": Range(lambda v: 0 < v <= 16, "above 0, at most 16"),
    "model.stem_filters": _between(0, 2048),
    "model.pooling": _one_of("max", "avg"),
    "model.batch_norm_momentum": _fraction(),
    "model.batch_norm_epsilon": _above(0),
    "model.init": _one_of("he_fan_out", "glorot", "torch", "dirac"),
    "model.head_pooling": _one_of("avg", "flatten"),
    "model.head_units": _tuple_of(
        lambda v: type(v) is int and 1 <= v <= 65536,
        "a tuple of whole numbers, 1 to 65536, such as (128,)",
    ),
    "model.dropout": _fraction(),
    "model.weights": Range(
        lambda v: not re.match("(?!gs:)[a-z0-9]+://", v),
        '"", imagenet, a file or gs://BUCKET/OBJECT',
    ),
    "model.preprocessing": _one_of("auto", "standardize", "caffe", "unit"),
    "model.input_size": Range(_is_input_size, "a multiple of 32, 32 to 512"),
    "model.upsampling": _one_of("nearest", "bilinear", "bicubic"),
    "model.progressive_sizes": _tuple_of(
        _is_progressive_size, "a tuple; each a multiple of 8, 16 to 512"
    ),
    "model.progressive_epochs": _tuple_of(
        lambda v: type(v) in (int, float) and 0 < v <= 1e6,
        "a tuple of epochs above 0",
    ),
    **{
        f"transfer.unfreeze_epochs.{block}": Range(
            lambda v: v == serialization.INFINITE or 0 <= v <= 1e6,
            "0 to 1e6, or inf",
        )
        for block in BLOCKS
    },
    "transfer.layer_decay": Range(lambda v: 0 < v <= 1, "above 0, at most 1"),
    "transfer.warmup_epochs": _between(0, 1e6),
    "augment.preset": Range(
        lambda v: v in ("", *augment_presets.NAMES),
        "empty or one of " + ", ".join(augment_presets.NAMES),
    ),
    "augment.flip": _one_of("none", "random", "alternating"),
    # A reflection is at most as long as the image.
    "augment.translate": _whole_number(31),
    "augment.fill": _one_of("reflect", "nearest", "zero"),
    "augment.rotation_degrees": _between(0, 180),
    "augment.shift": _fraction(),
    "augment.shear": Range(lambda v: 0 <= v < 90, "0 to below 90 degrees"),
    "augment.zoom": _fraction(),
    "augment.brightness": _between(0, 10),
    "augment.contrast": _between(0, 10),
    "augment.saturation": _between(0, 10),
    "augment.hue": _between(0, 0.5),
    "augment.autoaugment": _between(0, 1),
    "augment.randaugment_magnitude": _between(0, 10),
    "augment.cutout_pixels": _whole_number(32),
    "augment.mixup_alpha": Range(
        lambda v: v == 0 or 0.01 <= v <= 100, "0 (off), or 0.01 to 100"
    ),
    "augment.cutmix_probability": _between(0, 1),
    "optimizer.name": _one_of("sgd", "adam"),
    "optimizer.peak_learning_rate": _above(0),
    "optimizer.muon_ratio": _at_least(0),
    "optimizer.momentum": _fraction(),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.warmup_epochs": _between(0, 1e6),
    "optimizer.schedule": _one_of("cosine", "linear", "constant"),
    "optimizer.label_smoothing": _fraction(),
    "optimizer.ema_decay": _fraction(),
    "optimizer.clip_norm": _at_least(0),
    "evaluate.every_epochs": _between(0, 1e6),
    "evaluate.global_batch_size": _between(1, 2**20),
    "checkpoint.every_steps": _between(0, 10**9),
    "checkpoint.keep": _at_least(2),
    "checkpoint.on_nonfinite": _one_of("stop", "rollback"),
    "distribute.strategy": _one_of("auto", "mirrored", "multi_worker"),
    "distribute.logical_devices": Range(lambda v: 0 <= v <= 64, "0 to 64"),
    "distribute.require_gpus": _at_least(0),
    "distribute.all_reduce": _one_of("auto", "nccl", "hierarchical"),
}


def check(config: ml_collections.ConfigDict) -> None:
    """Checks that every field is present and every value is valid.

    Rules that depend on the devices (replicas) are in `check_replicas`.

    Raises:
      ConfigError: A field is missing, unknown, of the wrong type, out of its
        range or incompatible with another one. The message names the first
        such field.
    """
    fields = serialization.flatten(config)
    _check_values(fields, serialization.flatten(default.get_config()))
    if not fields["steps"] and not fields["epochs"]:
        raise error("epochs", 0.0, "above 0 if --config.steps is 0")
    _check_fold(fields)
    _check_sizes(fields)
    _check_muon(fields)
    _check_transfer(fields)
    if fields["data.source"] == "synthetic" and fields["data.dir"]:
        raise error(
            "data.dir",
            fields["data.dir"],
            "empty with --config.data.source=synthetic. Fix: use"
            " --config=stem32:10ep to train on the images of a folder",
        )
    check_replicas(fields, fields["distribute.logical_devices"] or 1)
    check_devices(fields)


def _check_values(
    fields: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Checks the name, type and range of each field."""
    for name in sorted(defaults.keys() - fields.keys()):
        raise errors.ConfigError(
            f"--config: the field {name} is missing. Fix: start with"
            " configs/default.py"
        )
    for name in sorted(fields.keys() - defaults.keys()):
        raise errors.ConfigError(
            f"--config.{name}: unknown field. Fix: use one of"
            " configs/default.py"
        )
    for name, value in fields.items():
        kind = type(defaults[name])
        valid = RANGES.get(name)
        if kind is float and value == serialization.INFINITE:
            if not name.startswith("transfer.unfreeze_epochs."):
                raise error(name, value, valid.expected if valid else "finite")
        elif type(value) is not kind and not (
            kind is float and type(value) is int
        ):
            raise error(name, value, f"of type {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise error(name, value, valid.expected if valid else "finite")
        if valid and not valid.accepts(value):
            raise error(name, value, valid.expected)


def _check_fold(fields: Mapping[str, Any]) -> None:
    fraction = fields["data.validation_fraction"]
    fold = fields["data.validation_fold"]
    # 1 / 0.1 may be just below 10.
    folds = math.floor(1 / fraction + 1e-6) if fraction else 1
    if fold >= folds:
        raise error(
            "data.validation_fold",
            fold,
            f"below {folds}, the number of slices with"
            f" --config.data.validation_fraction={fraction:g}",
        )


def _check_sizes(fields: Mapping[str, Any]) -> None:
    sizes = fields["model.progressive_sizes"]
    epochs = fields["model.progressive_epochs"]
    if len(sizes) != len(epochs):
        raise error(
            "model.progressive_epochs",
            tuple(epochs),
            f"as long as --config.model.progressive_sizes, {tuple(sizes)}",
        )
    if epochs != sorted(set(epochs)):
        raise error("model.progressive_epochs", tuple(epochs), "ascending")
    if sizes and fields["model.head_pooling"] == "flatten":
        raise error(
            "model.head_pooling",
            "flatten",
            "avg with --config.model.progressive_sizes, so that the head fits"
            " all sizes",
        )


def _check_muon(fields: Mapping[str, Any]) -> None:
    ratio = fields["optimizer.muon_ratio"]
    # Adam replaces sgd and with it Muon. Without batch normalization the norm
    # of a kernel, which Muon fixes, is not arbitrary.
    for name, value in (("optimizer.name", "sgd"), ("model.batch_norm", True)):
        if ratio and fields[name] != value:
            raise error(
                "optimizer.muon_ratio",
                ratio,
                f"0.0 with --config.{name}={fields[name]}",
            )


def _check_transfer(fields: Mapping[str, Any]) -> None:
    names = [f"transfer.unfreeze_epochs.{block}" for block in BLOCKS]
    epochs = [
        math.inf if fields[name] == serialization.INFINITE else fields[name]
        for name in names
    ]
    for name, epoch, following in zip(names, epochs, epochs[1:], strict=False):
        if epoch < following:
            raise error(
                name,
                fields[name],
                f"at least {following:g}, the epoch of the next block towards"
                " the output",
            )
    if not fields["model.weights"]:
        if any(epochs):
            raise error(
                "model.weights",
                "",
                "imagenet or a file if --config.transfer.unfreeze_epochs"
                " freezes a block, because random filters would stay random",
            )
        return
    layout = {
        "model.width": 1.0,
        "model.stem_filters": 0,
        "model.batch_norm": False,
    }
    for name, needed in layout.items():
        if fields[name] != needed:
            raise error(
                name,
                fields[name],
                f"{needed} for the layers of --config.model.weights",
            )


def check_devices(fields: Mapping[str, Any], *, required_gpus: int = 0) -> None:
    """Checks the fields of devices against each other.

    Args:
      fields: Flattened config.
      required_gpus: GPUs that the environment requires, whatever the config
        requires.

    Raises:
      ConfigError: Two fields exclude each other; the message names them.
    """
    if fields["distribute.sync_batch_norm"] and fields["jit_compile"] == "on":
        # XLA works with one replica, which has no statistics to synchronize.
        raise error(
            "jit_compile",
            "on",
            "auto or off with --config.distribute.sync_batch_norm, because XLA"
            " cannot compile a sum over replicas",
        )
    required = fields["distribute.require_gpus"] or required_gpus
    if required and fields["distribute.logical_devices"]:
        raise error(
            "distribute.logical_devices",
            fields["distribute.logical_devices"],
            "0 with --config.distribute.require_gpus, because it splits a CPU",
        )


def check_replicas(fields: Mapping[str, Any], num_replicas: int) -> None:
    """Checks that the global batch can be divided among the replicas.

    The batches of an evaluation are padded and need no check.

    Args:
      fields: Flattened config.
      num_replicas: Number of replicas, of all workers together.

    Raises:
      ConfigError: A replica would get a fraction of an image, or an odd number
        of images that are mixed in pairs.
    """
    batch = fields["global_batch_size"]
    if batch % num_replicas:
        nearest = max(1, round(batch / num_replicas)) * num_replicas
        raise error(
            "global_batch_size",
            batch,
            f"a multiple of the {num_replicas} replicas, such as {nearest}",
        )
    for name in ("augment.mixup_alpha", "augment.cutmix_probability"):
        if fields[name] and batch // num_replicas % 2:
            pairs = 2 * num_replicas
            raise error(
                "global_batch_size",
                batch,
                f"a multiple of {pairs}, such as {batch + num_replicas}, with"
                f" --config.{name}={fields[name]}, because each replica mixes"
                " pairs of images",
            )


def error(name: str, value: Any, expected: str) -> errors.ConfigError:
    """Returns the error for a field whose value cannot be used.

    Args:
      name: Dotted name of the field.
      value: Value of the field.
      expected: Description of the valid values.
    """
    typed = value if isinstance(value, str) and value else repr(value)
    return errors.ConfigError(f"--config.{name}={typed}: must be {expected}")
