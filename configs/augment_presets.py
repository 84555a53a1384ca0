"""Named augmentation presets: `--config.augment.preset=strong`.

A preset sets every field of `config.augment`. Fields that it does not list are
off. It overrides the config file, and flags override the preset. A config file
that changes a preset contains

    config.augment.update(augment_presets.fields("strong"))
    config.augment.cutout_pixels = 8.0

and leaves `config.augment.preset` empty. docs/augmentation.md has the effect
and the source of each field.
"""

from typing import Any

from configs import default

_PRESETS: dict[str, dict[str, Any]] = {
    # Usual arguments of ImageDataGenerator in tutorials. Shear is 0.1 degrees.
    "keras_classic": {
        "flip": "random",
        "fill": "nearest",
        "rotation_degrees": 15.0,
        "shift": 0.1,
        "shear": 0.1,
        "zoom": 0.1,
    },
    # The augmentation of most published CIFAR-10 results.
    "crop_flip": {"flip": "random", "translate": 4.0, "fill": "zero"},
    # Modelled on the highest published VGG16 figure that we found, with CutMix.
    "strong": {
        "flip": "alternating",
        "translate": 4.0,
        "autoaugment": 1.0,
        "cutout_pixels": 16.0,
        "cutmix_probability": 0.5,
    },
}

NAMES = tuple(_PRESETS)


def off() -> dict[str, Any]:
    """Returns all fields of `config.augment` except `preset`, switched off."""
    fields = default.get_config().augment.to_dict()
    del fields["preset"]
    strengths = {n: 0.0 for n, v in fields.items() if isinstance(v, float)}
    return {**fields, **strengths, "flip": "none"}


def fields(name: str) -> dict[str, Any]:
    """Returns the fields of a preset, without `preset` itself.

    Args:
      name: Name of the preset, one of NAMES.

    Raises:
      KeyError: The preset does not exist.
    """
    return {**off(), **_PRESETS[name]}
