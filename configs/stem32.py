"""Recommended recipe: VGG16 for 32-pixel images, trained from scratch.

    make train CONFIG=configs/stem32.py DATA=DIR      # :20ep_full_width
    make train CONFIG=configs/stem32.py:10ep DATA=DIR

    variant          width  accuracy  flip TTA  seeds  time    hardware
    200ep            1      not run                            1 GPU
    100ep            1      not run                            1 GPU
    20ep_full_width  1      90.15 %   90.32 %   1      2.1 h   2 CPU cores
    20ep             0.5    88.97 %   89.95 %   3      27 min  2 CPU cores
    10ep             0.5    88.16 %   88.91 %   3      16 min  2 CPU cores

The accuracy is that of the last epoch, as the mean of the seeds. The images are
quality-75 JPEGs of CIFAR-10, so the figures are not comparable with published
ones. docs/results.md has each run. The runs have `precision` float32, which is
faster on this CPU, an Intel Xeon without AMX.

All variants begin with images of 24 pixels. A run with fewer epochs than these
take, 5.6 for 10ep, needs `--config.model.progressive_sizes=()
--config.model.progressive_epochs=()`.
"""

import ml_collections

from configs import augment_presets, default

VARIANTS = ("10ep", "20ep", "20ep_full_width", "100ep", "200ep")


def get_config(
    variant: str = "20ep_full_width",
) -> ml_collections.ConfigDict:
    """Returns the recipe for a number of epochs.

    Args:
      variant: Name of the variant, one of VARIANTS. 10ep and 20ep are for 2 CPU
        cores, the others for a GPU.

    Raises:
      ValueError: The variant does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"unknown variant {variant!r} of configs/stem32.py. Fix: choose"
            f" one of {', '.join(VARIANTS)}"
        )
    config = default.get_config()
    config.epochs = 10.0
    config.model.width = 0.5
    config.model.pooling = "avg"
    config.model.init = "dirac"
    # An image of 24 pixels costs 0.60 times as much as one of 32 pixels.
    config.model.progressive_sizes = (24,)
    config.model.progressive_epochs = (5.6,)
    config.augment.translate = 2.0
    config.augment.cutout_pixels = 0.0
    config.optimizer.muon_ratio = 0.125
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 1e-3
    config.optimizer.ema_decay = 0.98
    config.evaluate.every_epochs = 4.0
    if variant != "10ep":
        config.epochs = 20.0
        config.model.progressive_epochs = (11.2,)
        config.optimizer.warmup_epochs = 4.0
    if variant not in ("10ep", "20ep"):
        config.model.width = 1.0
        # Muon has not been run at this width.
        config.global_batch_size = 256
        config.model.progressive_epochs = (10.0,)
        config.optimizer.muon_ratio = 0.0
        config.optimizer.peak_learning_rate = 0.2
        config.optimizer.ema_decay = 0.99
        # An epoch takes an estimated half second on an H100. With the default
        # interval, logs would take a tenth of the run.
        config.log_every_steps = 200
    if variant in ("100ep", "200ep"):
        config.epochs = 100.0 if variant == "100ep" else 200.0
        config.model.progressive_epochs = (config.epochs / 2,)
        config.augment.update(augment_presets.fields("strong"))
        config.optimizer.warmup_epochs = 5.0
        config.optimizer.schedule = "cosine"
        config.optimizer.weight_decay = 5e-4
        config.optimizer.ema_decay = 0.999
        config.evaluate.every_epochs = 10.0
    if variant == "100ep":
        # Two RandAugment operations are weaker than AutoAugment's policy.
        config.augment.autoaugment = 0.0
        config.augment.randaugment_magnitude = 3.0
        config.augment.cutout_pixels = 8.0
    return config
