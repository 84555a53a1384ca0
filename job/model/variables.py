"""Properties of the trainable variables of the network."""

import keras

from job.model.layers import BatchNormalization
from job.model.spec import HEAD


def blocks(model: keras.Model) -> list[str]:
    """Returns of each trainable variable its block: block1 to block5, HEAD."""
    return [
        block_of_layer(v.path.split("/")[-2]) for v in model.trainable_variables
    ]


def block_of_layer(layer: str) -> str:
    return layer.split("_")[0] if layer.startswith("block") else HEAD


def decayed(model: keras.Model) -> list[bool]:
    """Says of each trainable variable whether weight decay applies: kernels."""
    return [v.name == "kernel" for v in model.trainable_variables]


def running_momentum(model: keras.Model) -> float:
    """Returns the momentum of the running moments; 0.0 where there are none."""
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            return layer.momentum
    return 0.0
