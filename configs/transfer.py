"""VGG16 with ImageNet's weights: frozen, or opened block by block.

    make train CONFIG=configs/transfer.py DATA=DIR \
        ARGS=--config.model.weights=imagenet             # :gradual
    make train CONFIG=configs/transfer.py:frozen DATA=DIR

`model.weights` is imagenet (a download) or the path of the file.

    variant     accuracy  what
    frozen      65.72     a linear head on the frozen base's features
    gradual     88.09     32 px: the head, then a block each 1/4 epoch, a rate
                          for each; 6 epochs, half an hour on 2 CPU cores
    at_once     not run   the same, all blocks from the start
    uniform     not run   the same as gradual, one rate for all blocks
    gradual128  not run   128 px, 25 epochs; for a GPU
"""

import math

import ml_collections

from configs import default

# From the output to the input.
_BLOCKS = tuple(default.get_config().transfer.unfreeze_epochs)[::-1]
_VARIANTS = ("frozen", "gradual", "at_once", "uniform", "gradual128")


def get_config(variant: str = "gradual") -> ml_collections.ConfigDict:
    """Returns one of the variants above."""
    if variant not in _VARIANTS:
        raise ValueError(
            f"configs/transfer.py has no variant {variant!r}; there are"
            f" {', '.join(_VARIANTS)}"
        )
    config = default.get_config()
    config.model.weights = "imagenet"
    config.model.batch_norm = False
    config.global_batch_size = 128
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.augment.cutout_pixels = 0.0
    if variant == "frozen":
        return _frozen(config)
    config.epochs = 6.0
    config.optimizer.peak_learning_rate = 0.08
    config.optimizer.warmup_epochs = 0.25
    config.optimizer.schedule = "cosine"
    config.optimizer.ema_decay = 0.995
    config.augment.translate = 2.0
    config.transfer.layer_decay = 0.75
    config.transfer.warmup_epochs = 0.25
    config.evaluate.every_epochs = 1.0
    for place, block in enumerate(_BLOCKS, start=1):
        config.transfer.unfreeze_epochs[block] = place / 4
    if variant == "at_once":
        for block in _BLOCKS:
            config.transfer.unfreeze_epochs[block] = 0.0
    elif variant == "uniform":
        config.transfer.layer_decay = 1.0
    elif variant == "gradual128":
        config.epochs = 25.0
        # Not tried at this size; .08 was chosen at 32 px.
        config.optimizer.peak_learning_rate = 0.04
        config.model.input_size = 128
        config.evaluate.global_batch_size = 250
        config.transfer.warmup_epochs = 1.0
        for place, block in enumerate(_BLOCKS, start=1):
            config.transfer.unfreeze_epochs[block] = float(place)
    return config


def _frozen(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.epochs = 30.0
    config.augment.flip = "none"
    config.augment.translate = 0.0
    # Features are not of unit size: 3.4 on average, up to 400.
    config.optimizer.peak_learning_rate = 1e-4
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.clip_norm = 0.0
    config.optimizer.ema_decay = 0.0
    config.optimizer.label_smoothing = 0.0
    config.evaluate.every_epochs = 0.0
    for block in _BLOCKS:
        config.transfer.unfreeze_epochs[block] = math.inf
    return config
