"""Properties of the network's variables, for the update.

variable_blocks(network)           # ["block1", ..., "block5", "head"]
weight_decay_mask(network)         # [True, False, ...]
"""

from collections.abc import Collection

import keras

from job.model.layers import BatchNormalization
from job.model.spec import block_of_layer


def variable_blocks(network: keras.Model) -> list[str]:
    """Returns the block of each trainable variable; see `spec`."""
    return [
        block_of_layer(variable.path.split("/")[-2])
        for variable in network.trainable_variables
    ]


def trainable_indices(
    network: keras.Model, trainable_blocks: Collection[str]
) -> list[int]:
    """Returns the indices of the trainable variables of given blocks.

    Args:
      network: Network of `vgg.vgg16`.
      trainable_blocks: Names of blocks; see `spec`.
    """
    return [
        index
        for index, block in enumerate(variable_blocks(network))
        if block in trainable_blocks
    ]


def weight_decay_mask(network: keras.Model) -> list[bool]:
    """Returns whether each trainable variable is a kernel and so decays."""
    return [v.name == "kernel" for v in network.trainable_variables]


def convolution_mask(network: keras.Model) -> list[bool]:
    """Returns whether each trainable variable is a convolution's kernel."""
    return [
        v.name == "kernel" and len(v.shape) == 4
        for v in network.trainable_variables
    ]


def batch_norm_momentum(network: keras.Model) -> float:
    """Returns the momentum of the moving statistics, 0.0 without any."""
    for layer in network.layers:
        if isinstance(layer, BatchNormalization):
            return layer.momentum
    return 0.0
