"""What people are told next, as it stands: ImageNet's base, frozen, 32 px.

    make train CONFIG=configs/seed_frozen.py DATA=DIR \
        ARGS=--config.model.weights=PATH          # or imagenet, the default

A dense layer of 128 units and the logits on 512 features of a map of one
pixel, Adam. Better than naive, and far from what the network can do: at 32 px
the last blocks see next to nothing of what they were trained on. Then see
`configs/transfer.py`.
"""

import math

import ml_collections

from configs import naive


def get_config() -> ml_collections.ConfigDict:
    """Returns a small head on a base that never trains."""
    config = naive.get_config()
    config.model.weights = "imagenet"
    # The answer divides pixels by 255, which is not what these weights know;
    # --config.model.preprocessing=unit shows what that costs.
    config.model.preprocessing = "auto"
    config.model.head_units = (128,)
    config.model.dropout = 0.0
    config.evaluate.every_epochs = 0.0
    for block in config.transfer.unfreeze_epochs:
        config.transfer.unfreeze_epochs[block] = math.inf
    return config
