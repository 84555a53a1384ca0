"""Augmentation: on the device, on whole batches, stateless.

A batch comes in from the pipeline and leaves with the same shape and type,
changed. All randomness is keyed by (seed, step, position in the global batch):
it is drawn for the whole global batch and then sliced. So 1, 2 and 8 replicas
show the network the same images, and a resumed run shows the images of the
uninterrupted one.

    operations = create_operations({"flip": "alternating", "translate": 4.0})
    augment = make_augment(operations, seed=0, ...)
    images, share = augment(batch, step, replica)

An operation is a function of images and of the numbers drawn for them, so that
it can be tested against a plain reference:

    draws       the random numbers
    geometry    flip, translate, one affine warp for the rest
    color       brightness, contrast, saturation, hue
    policies    AutoAugment and RandAugment
    mixing      cutout, mixup, CutMix
    operations  the operations with their config fields, in their order
    make        their composition
    picture     a figure of eight augmented images
"""

from job.augment.make import Augment, make_augment
from job.augment.operations import Augmented, create_operations

__all__ = ["Augment", "Augmented", "create_operations", "make_augment"]
