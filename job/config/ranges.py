"""What a config may hold, checked before anything slow is imported.

First room of the job: a `ConfigDict` from the command line comes in, the same
one, every value known to be usable, goes out.

    config.check(cfg)                   # raises ConfigError, naming the field
    fields = config.flatten(cfg)        # {"optimizer.momentum": 0.9, ...}
    config.fingerprint(fields)          # of what changes the result
    config.differences(saved, fields)   # what a resume may not change

Imports no TensorFlow.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import ml_collections

from configs import augment_presets, default
from job import errors
from job.storage import files

# A resume may change these: they change when something is written, where
# the images come from (their contents are compared by checksum) or on what the
# run computes, not what it computes. Prefixes end with a dot.
# checkpoint.on_nonfinite is among them though a rollback changes the result:
# whoever's run stopped (exit 5) may go on with it, a run that met no bad number
# is the same under both, and the result counts the rollbacks of the others.
FREE_TO_CHANGE = (
    "epochs",
    "steps",
    "steps_per_loop",
    "log_every_steps",
    "jit_compile",
    "data.source",
    "data.dir",
    "data.archive_sha256",
    "augment.preset",  # The fields that it has set are compared.
    "evaluate.",
    "checkpoint.",
    "distribute.strategy",
    "distribute.logical_devices",
    "distribute.require_gpus",
    "distribute.all_reduce",
)

# Where a workdir keeps its resolved config.
FILE = "config.json"
# And what the command line said: {"config": FILE, "flags": {field: value}}.
COMMAND_FILE = "command.json"

# What an infinite value is called, in a flattened config and in config.json:
# JSON has no infinity.
INFINITE = "inf"

# Names of the network's blocks, from the input to the output.
BLOCKS = tuple(default.get_config().transfer.unfreeze_epochs)

_Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A test of one value, and the words for what passes it."""

    passes: Callable[[Any], bool]
    wanted: str


def _at_least(low: float) -> _Rule:
    return _Rule(lambda v: v >= low, f"at least {low}")


def _between(low: float, high: float) -> _Rule:
    return _Rule(lambda v: low <= v <= high, f"{low} to {high:,}")


def _above(low: float) -> _Rule:
    return _Rule(lambda v: v > low, f"above {low}")


def _share() -> _Rule:
    return _Rule(lambda v: 0 <= v < 1, "at least 0 and below 1")


def _one_of(*names: str) -> _Rule:
    return _Rule(lambda v: v in names, "one of " + ", ".join(names))


def _whole(high: int) -> _Rule:
    return _Rule(
        lambda v: 0 <= v <= high and v == int(v), f"a whole number, 0 to {high}"
    )


def _tuple_of(passes: Callable[[Any], bool], wanted: str) -> _Rule:
    return _Rule(lambda v: all(passes(x) for x in v), wanted)


def _is_size(value: Any) -> bool:
    return type(value) is int and 32 <= value <= 512 and value % 32 == 0


_SIZE = "a multiple of 32, 32 to 512"


def _is_progressive_size(value: Any) -> bool:
    return type(value) is int and 16 <= value <= 512 and value % 8 == 0


_RULES: dict[str, _Rule] = {
    "seed": _Rule(lambda v: 0 <= v < 2**31, "0 to 2147483647"),
    "epochs": _between(0, 1e6),
    "steps": _between(0, 10**9),
    "global_batch_size": _between(1, 2**20),
    "precision": _one_of("float32", "bfloat16", "float16"),
    "steps_per_loop": _between(0, 10**9),
    "log_every_steps": _between(1, 10**9),
    "jit_compile": _one_of("auto", "on", "off"),
    "data.source": _one_of("auto", "tfds", "binary", "synthetic"),
    "data.dir": _Rule(
        lambda v: "://" not in v or re.match(r"gs://[^/]+(/|$)", v) is not None,
        "a folder, a .tar.gz or gs:// of one",
    ),
    "data.archive_sha256": _Rule(
        lambda v: (
            not v
            or (len(v) == 64 and set(v.lower()) <= set("0123456789abcdef"))
        ),
        "64 hexadecimal digits, or empty for the official archive's",
    ),
    "data.validation_fraction": _share(),
    "data.train_images": _between(0, 10**6),
    "data.test_images": _between(0, 10**6),
    "data.synthetic_train_images": _between(10, 10**6),
    "data.synthetic_test_images": _between(10, 10**6),
    "model.width": _Rule(lambda v: 0 < v <= 16, "above 0, at most 16"),
    "model.stem_filters": _between(0, 2048),
    "model.pooling": _one_of("max", "avg"),
    "model.batch_norm_momentum": _share(),
    "model.batch_norm_epsilon": _above(0),
    "model.init": _one_of("he_fan_out", "glorot", "torch", "dirac"),
    "model.head_pooling": _one_of("avg", "flatten"),
    "model.head_units": _tuple_of(
        lambda v: type(v) is int and 1 <= v <= 65536,
        "a tuple of whole numbers, 1 to 65536, such as (128,)",
    ),
    "model.dropout": _share(),
    "model.weights": _Rule(
        lambda v: not re.match("(?!gs:)[a-z0-9]+://", v),
        '"", imagenet, a file or gs://BUCKET/OBJECT',
    ),
    "model.preprocessing": _one_of("auto", "standardize", "caffe", "unit"),
    "model.input_size": _Rule(_is_size, _SIZE),
    "model.upsampling": _one_of("nearest", "bilinear", "bicubic"),
    "model.progressive_sizes": _tuple_of(
        _is_progressive_size, "a tuple; each a multiple of 8, 16 to 512"
    ),
    "model.progressive_epochs": _tuple_of(
        lambda v: type(v) in (int, float) and 0 < v <= 1e6,
        "a tuple of epochs above 0",
    ),
    **{
        f"transfer.unfreeze_epochs.{block}": _Rule(
            lambda v: v == INFINITE or 0 <= v <= 1e6, "0 to 1e6, or inf"
        )
        for block in BLOCKS
    },
    "transfer.layer_decay": _Rule(lambda v: 0 < v <= 1, "above 0, at most 1"),
    "transfer.warmup_epochs": _between(0, 1e6),
    "augment.preset": _Rule(
        lambda v: v in ("", *augment_presets.NAMES),
        "empty or one of " + ", ".join(augment_presets.NAMES),
    ),
    "augment.flip": _one_of("none", "random", "alternating"),
    # A reflection reaches no further than the image itself.
    "augment.translate": _whole(31),
    "augment.fill": _one_of("reflect", "nearest", "zero"),
    "augment.rotation_degrees": _between(0, 180),
    "augment.shift": _share(),
    "augment.shear": _Rule(lambda v: 0 <= v < 90, "0 to below 90 degrees"),
    "augment.zoom": _share(),
    "augment.brightness": _between(0, 10),
    "augment.contrast": _between(0, 10),
    "augment.saturation": _between(0, 10),
    "augment.hue": _between(0, 0.5),
    "augment.autoaugment": _between(0, 1),
    "augment.randaugment_magnitude": _between(0, 10),
    "augment.cutout_pixels": _whole(32),
    "augment.mixup_alpha": _Rule(
        lambda v: v == 0 or 0.01 <= v <= 100, "0 (off), or 0.01 to 100"
    ),
    "augment.cutmix_probability": _between(0, 1),
    "optimizer.name": _one_of("sgd", "adam"),
    "optimizer.peak_learning_rate": _above(0),
    "optimizer.momentum": _share(),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.warmup_epochs": _between(0, 1e6),
    "optimizer.schedule": _one_of("cosine", "linear", "constant"),
    "optimizer.label_smoothing": _share(),
    "optimizer.ema_decay": _share(),
    "optimizer.clip_norm": _at_least(0),
    "evaluate.every_epochs": _between(0, 1e6),
    "evaluate.global_batch_size": _between(1, 2**20),
    "checkpoint.every_steps": _between(0, 10**9),
    "checkpoint.keep": _at_least(2),
    "checkpoint.on_nonfinite": _one_of("stop", "rollback"),
    "distribute.strategy": _one_of("auto", "mirrored", "multi_worker"),
    "distribute.logical_devices": _Rule(lambda v: 0 <= v <= 64, "0 to 64"),
    "distribute.require_gpus": _at_least(0),
    "distribute.all_reduce": _one_of("auto", "nccl", "hierarchical"),
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> _Fields:
    """Returns {dotted name: value} of every field, in the config's order.

    All values are JSON's: a tuple is a list, infinity is `INFINITE`.
    """
    flat: _Fields = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            flat[prefix + name] = list(value)
        elif value == math.inf:
            flat[prefix + name] = INFINITE
        else:
            flat[prefix + name] = value
    return flat


def changed(fields: Mapping[str, Any]) -> _Fields:
    """Returns what is not as in configs/default.py, and the seed."""
    base = flatten(default.get_config())
    return {
        name: value
        for name, value in fields.items()
        if name == "seed" or base.get(name) != value
    }


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for the first value that cannot be trained with.

    Every field of configs/default.py must be there, no other, each of its type
    and in its range. What depends on the devices (replicas) is
    `check_replicas`.
    """
    fields = flatten(config)
    wanted = flatten(default.get_config())
    for name in sorted(wanted.keys() - fields.keys()):
        raise errors.ConfigError(
            f"config.{name} is missing; start from configs/default.py"
        )
    for name in sorted(fields.keys() - wanted.keys()):
        raise errors.ConfigError(
            f"config.{name} is no field; configs/default.py has them all"
        )
    for name, value in fields.items():
        kind = type(wanted[name])
        rule = _RULES.get(name)
        if kind is float and value == INFINITE:
            if not name.startswith("transfer.unfreeze_epochs."):
                _refuse(name, value, rule.wanted if rule else "finite")
        elif type(value) is not kind and not (
            kind is float and type(value) is int
        ):
            _refuse(name, value, f"of type {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            _refuse(name, value, rule.wanted if rule else "finite")
        if rule and not rule.passes(value):
            _refuse(name, value, rule.wanted)
    if not fields["steps"] and not fields["epochs"]:
        _refuse("epochs", 0.0, "above 0 where config.steps is 0")
    _check_sizes(fields)
    _check_transfer(fields)
    if fields["data.source"] == "synthetic" and fields["data.dir"]:
        _refuse(
            "data.dir",
            fields["data.dir"],
            "empty with data.source=synthetic, whose images are drawn; a config"
            " for those in a folder is configs/stem32.py:8ep",
        )
    check_replicas(fields, fields["distribute.logical_devices"] or 1)
    if fields["distribute.sync_batch_norm"] and fields["jit_compile"] == "on":
        # Only one replica could do both; it has nothing to agree on.
        _refuse(
            "jit_compile",
            "on",
            "auto or off with distribute.sync_batch_norm: XLA cannot compile a"
            " sum over replicas",
        )
    if (
        fields["distribute.require_gpus"]
        and fields["distribute.logical_devices"]
    ):
        _refuse(
            "distribute.logical_devices",
            fields["distribute.logical_devices"],
            "0 with distribute.require_gpus: it splits a CPU",
        )


def _check_sizes(fields: _Fields) -> None:
    sizes = fields["model.progressive_sizes"]
    epochs = fields["model.progressive_epochs"]
    if len(sizes) != len(epochs):
        _refuse(
            "model.progressive_epochs",
            tuple(epochs),
            f"as long as model.progressive_sizes, {tuple(sizes)}",
        )
    if epochs != sorted(set(epochs)):
        _refuse("model.progressive_epochs", tuple(epochs), "ascending")
    if sizes and fields["model.head_pooling"] == "flatten":
        _refuse(
            "model.head_pooling",
            "flatten",
            "avg with model.progressive_sizes: the head must fit every size",
        )


def _check_transfer(fields: _Fields) -> None:
    names = [f"transfer.unfreeze_epochs.{block}" for block in BLOCKS]
    opens = [
        math.inf if fields[name] == INFINITE else fields[name] for name in names
    ]
    for name, epoch, behind in zip(names, opens, opens[1:], strict=False):
        if epoch < behind:
            _refuse(
                name,
                fields[name],
                f"at least {behind:g}, when the next block towards the output"
                " opens",
            )
    if not fields["model.weights"]:
        if any(opens):
            _refuse(
                "model.weights",
                "",
                "imagenet or a file where transfer.unfreeze_epochs freezes a"
                " block: random filters would stay random",
            )
        return
    layout = {
        "model.width": 1.0,
        "model.stem_filters": 0,
        "model.batch_norm": False,
    }
    for name, needed in layout.items():
        if fields[name] != needed:
            _refuse(
                name, fields[name], f"{needed} for the layers of model.weights"
            )


def use_preset(
    config: ml_collections.ConfigDict, explicit: Collection[str]
) -> None:
    """Sets `config.augment` to its preset, where it names one.

    Args:
      config: of a command line or a variant of it; not one that was saved,
        which holds its preset's fields already.
      explicit: dotted names of the fields that were set on top of the config
        file, on the command line say: these stay.

    Raises:
      ConfigError: there is no preset of that name.
    """
    name = config.get("augment", {}).get("preset", "")
    if not name:
        return
    if name not in augment_presets.NAMES:
        _refuse("augment.preset", name, _RULES["augment.preset"].wanted)
    for field, value in augment_presets.fields(name).items():
        if f"augment.{field}" not in explicit and field in config.augment:
            config.augment[field] = value


def load(workdir: pathlib.Path, name: str = "") -> ml_collections.ConfigDict:
    """Returns the checked config of the run in `workdir`.

    Args:
      workdir: a folder.
      name: what people call it; "": its path.

    Raises:
      ConfigError: there is none, or it is damaged.
    """
    saved = files.read_json(workdir / FILE)
    if not isinstance(saved, dict):
        there = (workdir / FILE).exists()
        raise errors.ConfigError(
            f"--workdir={name or workdir}: "
            + (f"{FILE} in it is damaged" if there else f"no {FILE} of a run")
        )
    with_defaults = _filled(saved, to_json(default.get_config()))
    config = ml_collections.ConfigDict(_with_infinities(with_defaults))
    check(config)
    return config


def _filled(saved: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Returns a saved config with the fields that the job has got since.

    By itself a new field leaves everything as it was.
    """
    filled = {**base, **saved}
    for name, value in base.items():
        if isinstance(value, dict) and isinstance(filled[name], dict):
            filled[name] = _filled(filled[name], value)
    return filled


def _with_infinities(saved: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _with_infinities(value)
        if isinstance(value, dict)
        else math.inf
        if value == INFINITE
        else value
        for name, value in saved.items()
    }


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as nested dicts of JSON's values; see `load`."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        *groups, field = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[field] = value
    return nested


def check_replicas(fields: Mapping[str, Any], num_replicas: int) -> None:
    """Raises ConfigError where the global batch does not split into replicas.

    That of an evaluation is filled up, which changes no score.
    """
    batch = fields["global_batch_size"]
    if batch % num_replicas:
        nearest = max(1, round(batch / num_replicas)) * num_replicas
        _refuse(
            "global_batch_size",
            batch,
            f"a multiple of the {num_replicas} replicas, such as {nearest}",
        )
    for name in ("augment.mixup_alpha", "augment.cutmix_probability"):
        if fields[name] and batch // num_replicas % 2:
            pairs = 2 * num_replicas
            _refuse(
                "global_batch_size",
                batch,
                f"a multiple of {pairs}, such as {batch + num_replicas}, with"
                f" config.{name} = {fields[name]}: each replica mixes pairs of"
                " images",
            )


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits of the fields that a resume must keep."""
    kept = {k: v for k, v in fields.items() if not _is_free(k)}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(
    saved: Mapping[str, Any], fields: Mapping[str, Any]
) -> list[str]:
    """Returns a phrase for each field that a resume may not change, changed.

    Args:
      saved: the flattened config of the checkpoint. A field that it lacks, as
        the job has got it since, is as in configs/default.py.
      fields: the flattened config of this start.
    """
    absent = "(absent)"
    saved = {**flatten(default.get_config()), **saved}
    return [
        f"{name}: {saved.get(name, absent)} -> {fields.get(name, absent)}"
        for name in sorted(saved.keys() | fields.keys())
        if not _is_free(name)
        and saved.get(name, absent) != fields.get(name, absent)
    ]


def _is_free(name: str) -> bool:
    return any(
        name.startswith(free) if free.endswith(".") else name == free
        for free in FREE_TO_CHANGE
    )


def _refuse(name: str, value: Any, wanted: str) -> None:
    raise errors.ConfigError(f"config.{name} is {value!r}; it must be {wanted}")
