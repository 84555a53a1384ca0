"""Usual third advice: images upsampled to 64 pixels before VGG16.

    make train CONFIG=configs/advice_upsample.py DATA=DIR \
        ARGS=--config.model.weights=PATH

Without ARGS, ImageNet's weights are downloaded. The usual example code
concatenates the upsampled image with `base_model.input`, but does not connect
the result to VGG16. This config implements the text of that example, in which
the upsampled image is the input of the frozen base.
"""

import ml_collections

from configs import advice_frozen


def get_config() -> ml_collections.ConfigDict:
    """Returns a config with the frozen base on images of 64 pixels."""
    config = advice_frozen.get_config()
    config.model.input_size = 64
    config.model.upsampling = "nearest"  # The default of UpSampling2D.
    config.evaluate.global_batch_size = 250
    return config
