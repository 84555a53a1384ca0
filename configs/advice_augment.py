"""Usual first advice: Keras' classic augmentation.

    make train CONFIG=configs/advice_augment.py DATA=DIR

This is `configs/naive.py` with the rotation, shifts, flip, shear and zoom of
ImageDataGenerator, as in the answer's listing. It trains for 20 epochs of batch
128, the listing for 100 of batch 32. Augmentation alone does not fix a network
whose loss does not decrease.
"""

import ml_collections

from configs import augment_presets, naive


def get_config() -> ml_collections.ConfigDict:
    """Returns the naive config with the preset keras_classic."""
    config = naive.get_config()
    config.augment.update(augment_presets.fields("keras_classic"))
    return config
