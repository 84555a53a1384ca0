"""Cost of the network, in floating-point operations."""

import keras
import numpy as np

from job.model.variables import block_of_layer


def gflop(model: keras.Model, size: int) -> dict[str, float]:
    """Returns what one image costs, forward, in 10^9 operations.

    A multiplication and an addition are two; what is not a matrix product is
    left out, being little. Backward is twice that: once towards the input,
    once towards the weights.

    Args:
      model: as `vgg16` builds it.
      size: side of the images in pixels.

    Returns:
      By block; see `blocks`.
    """
    costs: dict[str, float] = {}
    for layer in model.layers:
        block = block_of_layer(layer.name)
        if isinstance(layer, keras.layers.Conv2D):
            # Rounded up, as with `odd_maps`.
            side = -(-size >> int(block[-1]) - 1)
            outputs = side**2
        elif isinstance(layer, keras.layers.Dense):
            outputs = 1
        else:
            continue
        products = outputs * int(np.prod(layer.kernel.shape))
        costs[block] = costs.get(block, 0.0) + 2e-9 * products
    return costs
