"""Configs with single augmentations, for the tests of every strength."""

from typing import Any

import ml_collections

from configs import augment_presets, default
from job import errors
from job.config import ranges


def config_with(fields: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the default config with these augmentations and no other."""
    config = default.get_config()
    config.augment.update({**augment_presets.off(), **fields})
    return config


def strong(name: str) -> float:
    """Returns a large value that a strength may have."""
    for value in (8.0, 1.0, 0.5):
        try:
            ranges.check(config_with({name: value}))
        except errors.ConfigError:
            continue
        return value
    raise AssertionError(f"no value of {name} is accepted")
