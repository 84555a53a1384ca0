"""Presets and strengths of the augment group of a config.

    augmentation.use_preset(config, explicit={"augment.translate"})
    augmentation.is_enabled({"flip": "none", "translate": 2.0, ...})

Imports no TensorFlow.
"""

from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from configs import augment_presets
from job.config import ranges


def use_preset(
    config: ml_collections.ConfigDict, explicit: Collection[str]
) -> None:
    """Sets the fields of `config.augment` from its preset, if it names one.

    Args:
      config: Config of a command line, or a variant of it. A saved config
        has the fields of its preset already.
      explicit: Dotted names of the fields that were set on top of the config
        file, for example on the command line. They keep their values.

    Raises:
      ConfigError: The preset is unknown.
    """
    name = config.get("augment", {}).get("preset", "")
    if not name:
        return
    if name not in augment_presets.NAMES:
        expected = ranges.RANGES["augment.preset"].expected
        raise ranges.error("augment.preset", name, expected)
    for field, value in augment_presets.fields(name).items():
        if f"augment.{field}" not in explicit and field in config.augment:
            config.augment[field] = value


def is_enabled(augment: Mapping[str, Any]) -> bool:
    """Returns whether any augmentation is enabled.

    Args:
      augment: Fields of `config.augment`.
    """
    return augment["flip"] != "none" or any(strengths(augment).values())


def strengths(augment: Mapping[str, Any]) -> dict[str, float]:
    """Returns the fields whose value 0 disables an operation.

    Args:
      augment: Fields of `config.augment`.
    """
    others = ("preset", "flip", "fill")
    return {k: v for k, v in augment.items() if k not in others}
