"""Floating-point operations of the network.

    forward_gflop_by_block(network, 32)["block1"]        # 10^9 per image
    image_gflop(network, 32, trainable_blocks={"head"})  # forward, train

A multiplication and an addition count as two operations. Only matrix products
count, because all else is negligible.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import keras

from job.model.spec import BLOCK_NAMES, block_of_layer
from job.model.variables import convolution_mask

# Number of Newton-Schulz iterations of Muon, as in airbench94_muon.py of
# github.com/KellerJordan/cifar10-airbench.
NEWTON_SCHULZ_STEPS = 3


class ImageGflop(NamedTuple):
    """Cost of one image, in 10^9 operations.

    Attributes:
      forward: Cost of the forward pass.
      train: Cost of the forward and backward pass.
    """

    forward: float
    train: float


def forward_gflop_by_block(network: keras.Model, size: int) -> dict[str, float]:
    """Returns the cost of the forward pass of one image by block.

    Args:
      network: Network of `vgg.vgg16`.
      size: Height and width of the image in pixels.

    Returns:
      10^9 operations per image; the keys are those of `spec`.
    """
    costs: dict[str, float] = {}
    for layer in network.layers:
        block = block_of_layer(layer.name)
        if isinstance(layer, keras.layers.Conv2D):
            # The size is rounded up, as with pool_padding="same".
            feature_map_size = -(-size >> BLOCK_NAMES.index(block))
            outputs = feature_map_size**2
        elif isinstance(layer, keras.layers.Dense):
            outputs = 1
        else:
            continue
        products = outputs * math.prod(layer.kernel.shape)
        costs[block] = costs.get(block, 0.0) + 2e-9 * products
    return costs


def image_gflop(
    network: keras.Model, size: int, trainable_blocks: Collection[str]
) -> ImageGflop:
    """Returns the cost of one image in a training step.

    The backward pass of a trainable block costs twice its forward pass, because
    it computes the gradients of the weights and of the input. The input of the
    lowest trainable layer needs no gradient, but its small cost is counted.

    Args:
      network: Network of `vgg.vgg16`.
      size: Height and width of the image in pixels.
      trainable_blocks: Blocks that are trained; see `spec`.
    """
    costs = forward_gflop_by_block(network, size)
    forward = sum(costs.values())
    backward = sum(2 * costs[block] for block in trainable_blocks)
    return ImageGflop(forward, forward + backward)


def muon_gflop(network: keras.Model) -> float:
    """Returns the cost of Muon in a step of a replica, in 10^9 operations.

    An [m, n] matrix with m <= n takes two products of 2 m^2 n operations. The
    first iteration adds one of 2 m^3, and each other one four.

    Args:
      network: Network of `vgg.vgg16`.
    """
    products = 4 * NEWTON_SCHULZ_STEPS - 3
    total = 0
    for variable, is_kernel in zip(
        network.trainable_variables, convolution_mask(network), strict=True
    ):
        if is_kernel:
            *others, filters = variable.shape
            m, n = sorted((math.prod(others), filters))
            total += 4 * m**2 * n + products * 2 * m**3
    return total / 1e9
