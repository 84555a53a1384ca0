"""Augmentation: on the device, on whole batches, stateless.

A batch comes in as the pipeline gives it and leaves with the same shape and
type, changed. All randomness is keyed by (seed, step, position in the global
batch): it is drawn for the whole global batch and then sliced, so 1, 2 and 8
replicas show the network the same images, and a resumed run shows what the
uninterrupted one would have shown.

    augment = make_augment(AugmentSettings(flip="alternating"), seed=0, ...)
    images, share = augment(batch, step, replica)

An operation is a function of images and of the numbers drawn for them, so that
it can be tested against a plain reference:

    draws     the random numbers
    geometry  flip, translate, one affine warp for the rest
    color     brightness, contrast, saturation, hue
    policies  AutoAugment and RandAugment
    mixing    cutout, mixup, CutMix
    make      all of them, in this order
    picture   what a config does to eight images
"""

from job.augment.make import (
    Augment,
    Augmented,
    AugmentSettings,
    make_augment,
)

__all__ = ["Augment", "AugmentSettings", "Augmented", "make_augment"]
