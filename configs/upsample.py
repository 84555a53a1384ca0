"""VGG16 trained from scratch on upsampled images, and its cost.

    make train CONFIG=configs/upsample.py:64 DATA=DIR

    variant  GFLOP per training image, full width
    64       7.5
    96       17
    128      30
    160      47
    224      92

At 32 pixels (`configs/stem32.py`) the cost is 1.9 GFLOP. The config is for a
GPU. On 2 CPU cores add `--config.model.width=0.25`.
"""

import ml_collections

from configs import default

SIZES = ("64", "96", "128", "160", "224")


def get_config(variant: str = "64") -> ml_collections.ConfigDict:
    """Returns the 30-epoch recipe at a larger image size.

    Args:
      variant: Image size in pixels, one of SIZES.

    Raises:
      ValueError: The variant does not exist.
    """
    if variant not in SIZES:
        raise ValueError(
            f"unknown variant {variant!r} of configs/upsample.py. Fix: choose"
            f" one of {', '.join(SIZES)}"
        )
    config = default.get_config()
    config.model.input_size = int(variant)
    config.global_batch_size = 256
    config.optimizer.peak_learning_rate = 0.2
    # The memory of a batch grows with the square of the size.
    config.evaluate.global_batch_size = 250
    return config
