"""Stateless augmentation of batches on the device.

A batch keeps its shape and type. All random numbers depend on (seed, step,
position in the global batch). They are drawn for the global batch and then
sliced. The images are therefore equal on 1, 2 and 8 replicas and after a
resume.

    operations = create_operations({"flip": "alternating", "translate": 4.0})
    augment = make_augment(operations, seed=0, ...)
    images, share = augment(batch, step, replica)

An operation is a frozen dataclass. `draw` draws the random numbers and `apply`
changes images by them. `apply` can therefore be tested against a reference
implementation.

    draws       the random numbers
    geometry    flip, translate, one affine warp for the rest
    color       brightness, contrast, saturation, hue
    policies    AutoAugment and RandAugment
    mixing      cutout, mixup, CutMix
    operations  the operations with their config fields, in their order
    make        their composition
    picture     figure of eight augmented images
"""

from job.augment.make import Augment, make_augment
from job.augment.operations import Augmented, create_operations

__all__ = ["Augment", "Augmented", "create_operations", "make_augment"]
