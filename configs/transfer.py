"""VGG16 with ImageNet weights: frozen, or unfrozen block by block.

    make train CONFIG=configs/transfer.py DATA=DIR           # :gradual
    make train CONFIG=configs/transfer.py:frozen DATA=DIR

The weights are downloaded unless `ARGS=--config.model.weights=PATH` names a
file.

    variant     accuracy  recipe
    frozen      65.72 %   linear head on the features of the frozen base
    gradual     88.09 %   first the head, then one more block per 1/4 epoch,
                          each with its own learning rate; 32 pixels, 6 epochs,
                          half an hour on 2 CPU cores
    at_once     not run   gradual with all blocks unfrozen from the start
    uniform     not run   gradual with one learning rate for all blocks
    gradual128  not run   gradual at 128 pixels, 25 epochs; for a GPU
"""

import math

import ml_collections

from configs import default

# Names of the blocks, from the output to the input.
_BLOCKS = tuple(default.get_config().transfer.unfreeze_epochs)[::-1]
VARIANTS = ("frozen", "gradual", "at_once", "uniform", "gradual128")


def get_config(variant: str = "gradual") -> ml_collections.ConfigDict:
    """Returns a transfer-learning recipe.

    Args:
      variant: Name of the variant, one of VARIANTS.

    Raises:
      ValueError: The variant does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"unknown variant {variant!r} of configs/transfer.py. Fix: choose"
            f" one of {', '.join(VARIANTS)}"
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
    for index, block in enumerate(_BLOCKS, start=1):
        config.transfer.unfreeze_epochs[block] = index / 4
    if variant == "at_once":
        for block in _BLOCKS:
            config.transfer.unfreeze_epochs[block] = 0.0
    elif variant == "uniform":
        config.transfer.layer_decay = 1.0
    elif variant == "gradual128":
        config.epochs = 25.0
        # This learning rate, half of the one tuned at 32 pixels, is not tuned.
        config.optimizer.peak_learning_rate = 0.04
        config.model.input_size = 128
        config.evaluate.global_batch_size = 250
        config.transfer.warmup_epochs = 1.0
        for index, block in enumerate(_BLOCKS, start=1):
            config.transfer.unfreeze_epochs[block] = float(index)
    return config


def _frozen(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.epochs = 30.0
    config.augment.flip = "none"
    config.augment.translate = 0.0
    # The features are large, 3.4 on average and 400 at most.
    config.optimizer.peak_learning_rate = 1e-4
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.clip_norm = 0.0
    config.optimizer.ema_decay = 0.0
    config.optimizer.label_smoothing = 0.0
    config.evaluate.every_epochs = 0.0
    for block in _BLOCKS:
        config.transfer.unfreeze_epochs[block] = math.inf
    return config
