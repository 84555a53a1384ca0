"""VGG16 made for 32 px, real CIFAR-10, from scratch: the recipe.

    make train CONFIG=configs/stem32.py DATA=DIR           # :30ep
    make train CONFIG=configs/stem32.py:8ep DATA=DIR

    variant  model     accuracy  mirror  seeds  time     hardware
    30ep     width 1   not run                           a GPU
    8ep      width .5  85.79     86.36   2      14 min   2 CPU cores

Last epoch, mean of seeds 0 and 1 (86.01, 85.57), on CIFAR-10's images as
quality-75 JPEGs: not to be compared with published figures.
"""

import ml_collections

from configs import default


def get_config(variant: str = "30ep") -> ml_collections.ConfigDict:
    """Returns the recipe of a budget: `30ep` (a GPU), `8ep` (2 CPU cores)."""
    config = default.get_config()
    if variant == "30ep":
        pass
    elif variant == "8ep":
        config.epochs = 8.0
        config.global_batch_size = 256
        config.model.width = 0.5
        config.model.pooling = "avg"
        config.augment.translate = 2.0
        config.augment.cutout_pixels = 0.0
        config.optimizer.peak_learning_rate = 0.2
        config.optimizer.warmup_epochs = 1.6
        config.optimizer.weight_decay = 1e-3
        config.optimizer.ema_decay = 0.99
        config.evaluate.every_epochs = 4.0
    else:
        raise ValueError(
            f"configs/stem32.py has no variant {variant!r}; there are 30ep, 8ep"
        )
    return config
