"""And what they are told last: images scaled up to 64 px before VGG16.

    make train CONFIG=configs/seed_upsample.py DATA=DIR \
        ARGS=--config.model.weights=PATH          # or imagenet, the default

The code they are given upsamples the image twofold and then concatenates the
result with the base's output. Those are two things: pixels, of 64 x 64, and
features, of 2 x 2, and no axis on which they could be joined means anything.
What it should be is a chain, the upsampled image being the base's input; that
is what this config runs.
"""

import ml_collections

from configs import seed_frozen


def get_config() -> ml_collections.ConfigDict:
    """Returns the frozen base on images of 64 px, flattened as the answer's."""
    config = seed_frozen.get_config()
    config.model.input_size = 64
    config.model.upsampling = "nearest"  # What UpSampling2D does by itself.
    config.evaluate.global_batch_size = 250
    return config
