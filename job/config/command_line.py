"""Order of a command line's arguments, and fixes for wrong names.

    arguments = in_order(sys.argv[1:])
    check_fields(arguments)
    nearest_field("lr")            # "optimizer.peak_learning_rate"
    find_config("stem32:10ep")     # "configs/stem32.py:10ep"

Imports no TensorFlow.
"""

import difflib
import os
import pathlib
import re
from collections.abc import Callable, Collection

from configs import default
from job import errors
from job.config import serialization

_CONFIGS = pathlib.Path(default.__file__).parent

_FIELD = re.compile(r"--?(?:no)?config\.([^=]*)")

# Names that other training scripts use and that are not similar to the job's.
_FLAG_ALIASES = {
    "output_dir": "workdir",
    "out_dir": "workdir",
    "logdir": "workdir",
    "log_dir": "workdir",
    "save_dir": "workdir",
    "model_dir": "workdir",
}
FIELD_ALIASES = {
    "lr": "optimizer.peak_learning_rate",
    "max_lr": "optimizer.peak_learning_rate",
    "base_lr": "optimizer.peak_learning_rate",
    "lr_schedule": "optimizer.schedule",
    "scheduler": "optimizer.schedule",
    "wd": "optimizer.weight_decay",
    "opt": "optimizer.name",
    "optimizer": "optimizer.name",
    "warmup": "optimizer.warmup_epochs",
    "warmup_epochs": "optimizer.warmup_epochs",
    "bs": "global_batch_size",
    "batch": "global_batch_size",
    "bn": "model.batch_norm",
    "drop_rate": "model.dropout",
    "image_size": "model.input_size",
    "resolution": "model.input_size",
    "pretrained": "model.weights",
    "dataset": "data.dir",
    "data": "data.dir",
    "gpu": "distribute.require_gpus",
    "gpus": "distribute.require_gpus",
    "devices": "distribute.require_gpus",
    "fp16": "precision",
    "amp": "precision",
    "dtype": "precision",
    "mixed_precision": "precision",
}


def in_order(arguments: list[str]) -> list[str]:
    """Returns the arguments in the order that ml_collections needs.

    --config comes before every --config.FIELD and names an existing file.

    Args:
      arguments: Arguments without the program's name.

    Raises:
      ConfigError: The config file does not exist; see `find_config`.
    """
    others, fields = [], []
    left = iter(range(len(arguments)))
    for i in left:
        argument = arguments[i]
        following = arguments[i + 1 : i + 2]
        if _FIELD.match(argument):
            fields.append(argument)
            # A separate value may be a negative number.
            if "=" not in argument and following:
                if re.match(r"[^-]|-[\d.]", following[0]):
                    fields.append(arguments[next(left)])
            continue
        if argument in ("--config", "-config") and following:
            argument = f"--config={arguments[next(left)]}"
        if re.match("--?config=", argument):
            argument = f"--config={find_config(argument.partition('=')[2])}"
        others.append(argument)
    return others + fields


def add_default_config(argv: list[str]) -> None:
    """Adds a config if fields are given with --keras_model but without one.

    Args:
      argv: Program name and arguments, changed in place.
    """
    names = {a.lstrip("-").partition("=")[0] for a in argv}
    if "keras_model" in names and "config" not in names:
        if any(_FIELD.match(argument) for argument in argv):
            argv.insert(1, f"--config={default.__file__}")


def check_fields(arguments: list[str]) -> None:
    """Raises ConfigError if a --config.FIELD does not exist."""
    known = _fields()
    for argument in arguments:
        if match := _FIELD.match(argument):
            if match[1].partition("[")[0] not in known:
                raise unknown(argument, "unknown field")


def find(flag: str, arguments: list[str]) -> str:
    """Returns the argument that sets a flag, or the flag if none does."""
    for argument in arguments:
        if argument.lstrip("-").partition("=")[0] == flag:
            return argument
    return f"--{flag}"


def unknown(
    argument: str,
    problem: str,
    *,
    flags: Collection[str] = (),
    modes: Collection[str] = (),
) -> errors.ConfigError:
    """Returns an error that names the flag that an argument most likely means.

    Args:
      argument: Argument as typed.
      problem: Description of the problem.
      flags: Names of the job's flags.
      modes: Names of the job's modes.
    """
    match = _FIELD.match(argument)
    name, _, value = argument.lstrip("-").partition("=")
    value = value or "VALUE"
    file = name.partition(":")[0]
    similar = difflib.get_close_matches(name, flags, n=1)
    if match:
        field = nearest_field(match[1].partition("[")[0])
    else:
        field = nearest_field(name)
    if name in modes:
        fix = f"use --mode={name}"
    elif name == "resume":
        fix = "leave it out; the same command resumes a run"
    elif flags and name in _FLAG_ALIASES:
        fix = f"use --{_FLAG_ALIASES[name]}={value}"
    elif similar:
        fix = f"use --{similar[0]}={value}"
    elif flags and (_CONFIGS / f"{file.removesuffix('.py')}.py").is_file():
        fix = f"use --config={name}"
    elif field:
        fix = f"use --config.{field}={value}"
    else:
        fix = "see --help for the flags, --mode=config for the fields"
    return errors.ConfigError(f"{argument}: {problem}. Fix: {fix}")


def nearest_field(name: str) -> str:
    """Returns the config field that a wrong name most likely means.

    Args:
      name: Name as typed, without `--config.`, with or without its group.

    Returns:
      Dotted name of the field, or "" if none is similar.
    """
    name = name.lower().replace("-", "_")
    last = name.rpartition(".")[2]

    def similarity(field: str, to: str) -> float:
        return difflib.SequenceMatcher(None, to, field).ratio()

    rules: list[Callable[[str, str], bool]] = [
        lambda field, short: field == FIELD_ALIASES.get(last),
        lambda field, short: short == last or field.replace(".", "_") == name,
        lambda field, short: f"_{last}_" in f"_{short}_",
        lambda field, short: f"_{short}_" in f"_{last}_",
        lambda field, short: similarity(short, last) > 0.75,
    ]
    for rule in rules:
        found = [f for f in _fields() if rule(f, f.rpartition(".")[2])]
        if found:
            return max(found, key=lambda field: similarity(field, name))
    return ""


def find_config(value: str) -> str:
    """Returns the config file that a value of --config names.

    Args:
      value: FILE[:VARIANT]. A name without a folder or without .py is looked up
        in configs/.

    Returns:
      FILE[:VARIANT] with an existing file.

    Raises:
      ConfigError: The file does not exist, or is a folder or a FIFO. The
        message names the nearest config.
    """
    path, colon, variant = value.partition(":")
    if os.path.isfile(path):
        return value
    name = path.removesuffix(".py").removeprefix("configs/")
    known = sorted(
        {file.stem for file in _CONFIGS.glob("*.py")}
        - {"__init__", "augment_presets"}
    )
    if name in known:
        found = os.path.relpath(_CONFIGS / f"{name}.py")
        if found.startswith(".."):
            found = str(_CONFIGS / f"{name}.py")
        return f"{found}{colon}{variant}"
    similar = difflib.get_close_matches(name, known, n=1)
    names = f"NAME, one of {', '.join(known)}"
    fix = f"use --config={similar[0] if similar else names}"
    problem = "is not a regular file" if os.path.exists(path) else "is missing"
    raise errors.ConfigError(
        f"--config={value}: the file {problem}. Fix: {fix}"
    )


def _fields() -> list[str]:
    """Returns the dotted names of all config fields."""
    return list(serialization.flatten(default.get_config()))
