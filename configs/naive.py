"""Usual first attempt: VGG16 as published for ImageNet, at 32 pixels.

    make train CONFIG=configs/naive.py DATA=DIR

The network has two dense layers of 4,096 units, Glorot initialization and no
batch normalization. Adam trains it at its default learning rate in Keras, on
pixels divided by 255, without augmentation or a schedule. The config fails by
design. `configs/stem32.py` is the recommended recipe.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of the usual first attempt."""
    config = default.get_config()
    config.epochs = 20.0
    config.global_batch_size = 128
    config.precision = "float32"
    config.model.batch_norm = False
    config.model.init = "glorot"
    config.model.preprocessing = "unit"
    config.model.head_pooling = "flatten"
    config.model.head_units = (4096, 4096)
    config.model.dropout = 0.5
    config.augment.flip = "none"
    config.augment.translate = 0.0
    config.augment.cutout_pixels = 0.0
    config.optimizer.name = "adam"
    config.optimizer.peak_learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.label_smoothing = 0.0
    config.optimizer.ema_decay = 0.0
    return config
