"""Augmentation presets, and whether augmentation is enabled."""

import pytest

from job import errors
from job.config import augmentation, ranges, serialization


def test_preset_overrides_the_file_but_not_the_command_line(config):
    config.augment.preset = "strong"
    config.augment.translate = 2.0
    config.augment.cutout_pixels = 4.0
    augmentation.use_preset(config, {"augment.cutout_pixels", "seed"})
    assert config.augment.translate == 4.0
    assert config.augment.autoaugment == 1.0
    assert config.augment.cutout_pixels == 4.0
    ranges.check(config)


def test_config_without_a_preset_is_unchanged(config):
    before = serialization.flatten(config)
    augmentation.use_preset(config, ())
    assert serialization.flatten(config) == before


def test_unknown_preset_is_refused_by_name(config):
    config.augment.preset = "weak"
    with pytest.raises(errors.ConfigError, match=r"preset=weak: .*strong"):
        augmentation.use_preset(config, ())


@pytest.mark.parametrize(
    ("field", "value", "enabled"),
    [
        ("flip", "random", True),
        ("hue", 0.1, True),
        ("fill", "zero", False),
        ("preset", "strong", False),
    ],
)
def test_flip_and_strengths_alone_enable_augmentation(
    config, field, value, enabled
):
    augment = dict(config.augment.items())
    off = dict.fromkeys(augmentation.strengths(augment), 0.0)
    augment |= off | {"flip": "none"}
    assert not augmentation.is_enabled(augment)
    assert augmentation.is_enabled(augment | {field: value}) == enabled
