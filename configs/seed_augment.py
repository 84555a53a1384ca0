"""What people are told first, as it stands: Keras' classic augmentation.

    make train CONFIG=configs/seed_augment.py DATA=DIR

`configs/naive.py` with ImageDataGenerator's rotation, shifts, flip, shear and
zoom. Alone it does not mend a network that does not train: docs/remedies.md.
"""

import ml_collections

from configs import augment_presets, naive


def get_config() -> ml_collections.ConfigDict:
    """Returns the naive run with augmentation on top."""
    config = naive.get_config()
    config.augment.update(augment_presets.fields("keras_classic"))
    return config
