"""VGG16 from scratch on images scaled up: the second remedy, and its price.

    make train CONFIG=configs/upsample.py:64 DATA=DIR

    variant  GFLOP an image trained, full width
    64       7.5
    96       17
    128      30
    160      47
    224      92

At 32 px, which is `configs/stem32.py`, it is 1.9. For a GPU; on 2 CPU cores
try `--config.model.width=0.25`.
"""

import ml_collections

from configs import default

SIZES = ("64", "96", "128", "160", "224")


def get_config(variant: str = "64") -> ml_collections.ConfigDict:
    """Returns the 30-epoch recipe at one of the sizes above."""
    if variant not in SIZES:
        raise ValueError(
            f"configs/upsample.py has no variant {variant!r}; there are"
            f" {', '.join(SIZES)}"
        )
    config = default.get_config()
    config.model.input_size = int(variant)
    config.global_batch_size = 256
    config.optimizer.peak_learning_rate = 0.2
    # The activations of a batch are larger by the square of the size.
    config.evaluate.global_batch_size = 250
    return config
