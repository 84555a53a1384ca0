"""Well-known sets of augmentation, by name: `--config.augment.preset=strong`.

A preset sets every field of `config.augment`: those that it does not name are
off. It replaces the values of the config file; fields on the command line are
set on top of it. A config file that starts from a preset and changes it writes

    config.augment.update(augment_presets.fields("strong"))
    config.augment.cutout_pixels = 8.0

and leaves `config.augment.preset` empty. Sources and semantics are in
docs/augmentation.md.
"""

from typing import Any

from configs import default

_PRESETS: dict[str, dict[str, Any]] = {
    # What Keras tutorials pass to ImageDataGenerator; shear is .1 degrees.
    "keras_classic": {
        "flip": "random",
        "fill": "nearest",
        "rotation_degrees": 15.0,
        "shift": 0.1,
        "shear": 0.1,
        "zoom": 0.1,
    },
    # What most published CIFAR-10 figures are trained with.
    "crop_flip": {"flip": "random", "translate": 4.0, "fill": "zero"},
    # What the best published VGG16 is trained with, and CutMix.
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
    """Returns every field of `config.augment` but `preset`, switched off."""
    fields = default.get_config().augment.to_dict()
    del fields["preset"]
    strengths = {n: 0.0 for n, v in fields.items() if isinstance(v, float)}
    return {**fields, **strengths, "flip": "none"}


def fields(name: str) -> dict[str, Any]:
    """Returns every field of `config.augment` but `preset`, as `name` has it.

    Raises:
      KeyError: No preset has that name; `NAMES` lists them.
    """
    return {**off(), **_PRESETS[name]}
