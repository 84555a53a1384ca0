"""Well-known sets of augmentation, by name: `--config.augment.preset=strong`.

A preset says all of `config.augment`: what it does not name is off. It replaces
what the config file says; fields on the command line are set on top of it. A
config file that starts from a preset and changes it writes

    config.augment.update(augment_presets.fields("strong"))
    config.augment.cutout_pixels = 8.0

and leaves `config.augment.preset` empty. Sources and semantics are in
docs/augmentation.md.
"""

from typing import Any

_OFF: dict[str, Any] = {
    "flip": "none",
    "translate": 0.0,
    "fill": "reflect",
    "rotation_degrees": 0.0,
    "shift": 0.0,
    "shear": 0.0,
    "zoom": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "autoaugment": 0.0,
    "randaugment_magnitude": 0.0,
    "cutout_pixels": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_probability": 0.0,
}

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


def fields(name: str) -> dict[str, Any]:
    """Returns every field of `config.augment` but `preset`, as `name` has it.

    Raises:
      KeyError: there is no such preset; `NAMES` are all.
    """
    return {**_OFF, **_PRESETS[name]}
