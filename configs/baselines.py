"""Published CIFAR-10 recipes that stem32.py is compared with.

    make train CONFIG=configs/baselines.py:common DATA=DIR

    variant             recipe                                   published
    common              random crop, flip, cosine schedule       94.16 %
    autoaugment_cutout  common with AutoAugment, Cutout, AvgPool 95.76 %

Both figures are the best epoch on the test set, trained on the original
images: chenyaofo/pytorch-cifar-models (vgg16_bn, 200 epochs, 94.06 % in the
last epoch) and yhhhli/SNN_Calibration (VGG16, 300 epochs). docs/results.md
has the figures of this job.

Two settings differ from the sources. Batch normalization's scales and biases
have no weight decay, and the precision is bfloat16. The batch size of 128 is
that of most copies of the common recipe; chenyaofo's log has 256.
"""

import ml_collections

from configs import augment_presets, default

VARIANTS = ("common", "autoaugment_cutout")


def get_config(variant: str = "common") -> ml_collections.ConfigDict:
    """Returns a baseline recipe with its published number of epochs.

    Args:
      variant: Name of the recipe, one of VARIANTS.

    Raises:
      ValueError: The variant does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/baselines.py has no variant {variant!r}; there are"
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
