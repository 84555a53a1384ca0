"""Narrow VGG16 on synthetic images, without network access or a data set.

    make train

    accuracy  flip TTA  seeds  time  hardware
    96.60 %   97.70 %   1      69 s  2 CPU cores

The accuracy is that of the last epoch. Without augmentation it is 94.50 %, and
without batch normalization 10.00 %.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns a config that takes about a minute on 2 CPU cores."""
    config = default.get_config()
    config.data.source = "synthetic"
    config.epochs = 12.0
    config.global_batch_size = 128
    config.model.width = 0.25
    config.augment.cutout_pixels = 0.0
    config.augment.translate = 2.0
    config.optimizer.peak_learning_rate = 0.1
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.ema_decay = 0.98
    config.log_every_steps = 25
    config.evaluate.every_epochs = 2.0
    return config
