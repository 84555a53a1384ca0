"""The recipes that this job is compared with, run by this job.

    make train CONFIG=configs/peers.py:common DATA=DIR

    variant             what                                        published
    common              crop, flip, cosine                          94.16
    autoaugment_cutout  the same, AutoAugment, Cutout, AvgPool      95.76

Published on CIFAR-10's own images, both as the best epoch on the test images:
chenyaofo/pytorch-cifar-models (vgg16_bn, 200 epochs, 94.06 in the last one) and
yhhhli/SNN_Calibration (VGG16, 300 epochs). On the images at hand:
docs/records.md.

Two things differ from theirs: no weight decay on the normalization's scales and
offsets, and bfloat16. Batch 128 is what most copies of the common recipe have;
chenyaofo's own log has 256.
"""

import ml_collections

from configs import augment_presets, default

VARIANTS = ("common", "autoaugment_cutout")


def get_config(variant: str = "common") -> ml_collections.ConfigDict:
    """Returns one of the recipes above, as long as it was published."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/peers.py has no variant {variant!r}; there are"
            f" {', '.join(VARIANTS)}"
        )
    config = default.get_config()
    config.epochs = 200.0
    config.global_batch_size = 128
    config.augment.update(augment_presets.fields("crop_flip"))
    config.optimizer.peak_learning_rate = 0.1
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.schedule = "cosine"
    config.optimizer.label_smoothing = 0.0
    config.optimizer.ema_decay = 0.0
    config.evaluate.every_epochs = 10.0
    if variant == "autoaugment_cutout":
        config.epochs = 300.0
        config.model.pooling = "avg"
        config.augment.autoaugment = 1.0
        config.augment.cutout_pixels = 16.0
    return config
