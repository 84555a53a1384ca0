"""The config of an existing run, as its workdir holds it.

    config = run_config.load(workdir)          # fit for this version of the job
    fields = run_config.read_fields(workdir)   # perhaps of another version

Imports no TensorFlow.
"""

import pathlib
from typing import Any

import ml_collections

from configs import default
from job import errors
from job.config import ranges, serialization
from job.storage import reader
from job.storage.workdir import CONFIG


def load(workdir: pathlib.Path, name: str = "") -> ml_collections.ConfigDict:
    """Reads and checks the config of the run in `workdir`.

    Args:
      workdir: Local directory of the run.
      name: Name of the workdir in error messages. Defaults to its path.

    Raises:
      ConfigError: The file is absent or damaged, or a value is out of range.
    """
    config = serialization.from_json(_read(workdir, name))
    ranges.check(config)
    return config


def read_fields(workdir: pathlib.Path, name: str = "") -> serialization.Fields:
    """Returns the flattened config of a run, also of another version's run.

    The known fields have the types of configs/default.py.

    Args:
      workdir: Local directory of the run.
      name: Name of the workdir in error messages. Defaults to its path.

    Raises:
      ConfigError: The file is absent or damaged.
    """
    return serialization.flatten(_read(workdir, name))


def _read(workdir: pathlib.Path, name: str) -> dict[str, Any]:
    where = f"--workdir={name or workdir}"
    kind = _kind(serialization.to_json(default.get_config()))
    try:
        saved = reader.read_json(workdir / CONFIG, kind, CONFIG)
        if saved is None:
            raise errors.ConfigError(f"{where}: no {CONFIG} of a run")
        _check_names(saved)
    except reader.DamagedError as error:
        raise errors.ConfigError(
            f"{where}: {error}. Fix: restore {CONFIG} from a copy, or choose"
            " another workdir"
        ) from None
    return saved


def _kind(defaults: dict[str, Any]) -> dict[str, reader.Kind]:
    """Returns the kind of each field, from the type of its default."""
    kinds: dict[str, reader.Kind] = {}
    for name, value in defaults.items():
        if isinstance(value, dict):
            # The epochs of these groups may be the text "inf".
            is_plain = name != "unfreeze_epochs"
            kinds[f"{name}?"] = _kind(value) if is_plain else dict
        elif type(value) in (int, float):
            kinds[f"{name}?"] = reader.Number(whole=type(value) is int)
        else:
            kinds[f"{name}?"] = type(value)
    return kinds


def _check_names(nested: dict[str, Any]) -> None:
    """Refuses names that are none of fields: ConfigDict raises many errors."""
    for name, value in nested.items():
        if not name.isidentifier() or name.startswith("_"):
            raise reader.DamagedError(f"{CONFIG}: {name[:40]!a} is no field")
        if isinstance(value, dict):
            _check_names(value)
