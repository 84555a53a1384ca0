"""Conversion of a config to and from the values of JSON.

    fields = serialization.flatten(config)    # {"optimizer.momentum": 0.9, ...}
    nested = serialization.to_json(config)    # {"optimizer": {"momentum": ...
    config = serialization.from_json(nested)

Imports no TensorFlow.
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import default

# Text for infinity in a flattened config and in config.json, as JSON has no
# infinite numbers.
INFINITE = "inf"

Fields = dict[str, Any]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Fields:
    """Returns {dotted name: value} of every field, in the config's order.

    All values are JSON values. A tuple becomes a list, infinity `INFINITE`.

    Args:
      config: Config or group of a config.
      prefix: Dotted name of the group, with a dot at its end. Empty for the
        complete config.
    """
    flat: Fields = {}
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


def changed(fields: Mapping[str, Any]) -> Fields:
    """Returns the fields that differ from configs/default.py, and the seed."""
    base = flatten(default.get_config())
    return {
        name: value
        for name, value in fields.items()
        if name == "seed" or base.get(name) != value
    }


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as nested dicts of JSON values; see `from_json`."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        *groups, field = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[field] = value
    return nested


def from_json(nested: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_json` converted, with unchecked values.

    A field that is newer than the saved config gets its default, which does not
    change the results of a run.

    Args:
      nested: Nested dicts of JSON values.
    """
    complete = _with_defaults(nested, to_json(default.get_config()))
    return ml_collections.ConfigDict(_with_infinities(complete))


def _with_defaults(
    nested: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    complete = {**defaults, **nested}
    for name, value in defaults.items():
        if isinstance(value, dict) and isinstance(complete[name], dict):
            complete[name] = _with_defaults(complete[name], value)
    return complete


def _with_infinities(nested: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _with_infinities(value)
        if isinstance(value, dict)
        else math.inf
        if value == INFINITE
        else value
        for name, value in nested.items()
    }
