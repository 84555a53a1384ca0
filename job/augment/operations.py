"""Augmentation operations in the order in which they are applied.

    operations = create_operations({"flip": "random", "cutout_pixels": 8.0})
    drawn = [operation.draw(draws, batch) for operation in operations]
    for operation, numbers in zip(operations, drawn):
        augmented = operation.apply(augmented, numbers)

An operation is a frozen dataclass. Its attributes are fields of
`config.augment`, described in `configs/default.py`. With their defaults here
the operation is off. `draw` returns the random numbers for a batch, and `apply`
changes images by them. Each class constant is the purpose of one random draw
and is unique. Results depend on these numbers, so they never change.

A new operation is a new class and an entry in `OPERATIONS`. CONTRIBUTING.md
lists the other steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import tensorflow as tf

from job.augment import color, geometry, mixing, policies
from job.augment.draws import Draws
from job.data.pipeline import TrainBatch


class Augmented(NamedTuple):
    """Augmented batch of one replica.

    Attributes:
      image: Images, uint8 [b, 32, 32, 3], 0 to 255. Between two operations they
        are float32 with integer values.
      share: Weight of the image itself and of its label, float32 [b], 0 to 1.
        The rest is the weight of the image at position i XOR 1. If None, no
        images are mixed.
    """

    image: tf.Tensor
    share: tf.Tensor | None


# Random numbers of an operation for b images, each [b, ...], by name.
Numbers = dict[str, tf.Tensor]


class Operation(Protocol):
    """Change of images, with the config fields that control it."""

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        """Returns the random numbers for a batch."""

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        """Returns the changed batch, which depends only on the arguments."""


@dataclasses.dataclass(frozen=True)
class FlipAndTranslate:
    """Flip left to right and translation by integer offsets."""

    flip: str = "none"
    translate: float = 0.0
    fill: str = "reflect"

    FLIP: ClassVar[int] = 0
    TRANSLATE: ClassVar[int] = 1

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        numbers = {}
        if self.flip == "random":
            coins = draws.integers(self.FLIP, 2)[:, 0]
            numbers["flip"] = tf.not_equal(coins, 0.0)
        if self.flip == "alternating":
            numbers["flip"] = geometry.alternating_flip(
                batch.index,
                batch.epoch,
                seed=draws.seed,
                purpose=self.FLIP,
                num_images=draws.num_images,
            )
        if self.translate:
            most = int(self.translate)
            moves = draws.integers(self.TRANSLATE, 2 * most + 1, 2)
            numbers["translate"] = moves - most
        return numbers

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images = geometry.flip_and_translate(
            batch.image,
            numbers.get("flip"),
            numbers.get("translate", tf.zeros([batch.image.shape[0], 2])),
            fill=self.fill,
        )
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Rotation, shift, shear and zoom in one bilinear warp."""

    rotation_degrees: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    fill: str = "reflect"

    WARP: ClassVar[int] = 3

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        return {"warp": draws.uniform(self.WARP, 6)}

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        height, width = batch.image.shape[1:3]
        matrix = geometry.random_affine(
            numbers["warp"],
            rotation_degrees=self.rotation_degrees,
            shift=self.shift,
            shear=self.shear,
            zoom=self.zoom,
            height=height,
            width=width,
        )
        images = geometry.warp_bilinear(batch.image, matrix, fill=self.fill)
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change of brightness, contrast, saturation and hue, in this order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    JITTER: ClassVar[int] = 4

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        return {"jitter": draws.uniform(self.JITTER, 4)}

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images = color.jitter(
            batch.image, numbers["jitter"], **dataclasses.asdict(self)
        )
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of AutoAugment's sub-policies for CIFAR-10 per image."""

    autoaugment: float = 0.0
    fill: str = "reflect"

    AUTOAUGMENT: ClassVar[int] = 5

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        return {"autoaugment": draws.uniform(self.AUTOAUGMENT, 5)}

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images = policies.apply_autoaugment(
            batch.image,
            numbers["autoaugment"],
            share=self.autoaugment,
            fill=self.fill,
        )
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Two of RandAugment's operations per image."""

    randaugment_magnitude: float = 0.0
    fill: str = "reflect"

    RANDAUGMENT: ClassVar[int] = 6

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        return {"randaugment": draws.uniform(self.RANDAUGMENT, 4)}

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images = policies.apply_randaugment(
            batch.image,
            numbers["randaugment"],
            magnitude=self.randaugment_magnitude,
            fill=self.fill,
        )
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Cutout of a square of each image."""

    cutout_pixels: float = 0.0

    CUTOUT: ClassVar[int] = 2

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        return {"cutout": draws.integers(self.CUTOUT, batch.image.shape[1], 2)}

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images = mixing.cutout(
            batch.image, numbers["cutout"], pixels=int(self.cutout_pixels)
        )
        return batch._replace(image=images)


@dataclasses.dataclass(frozen=True)
class Mix:
    """CutMix of some pairs of images, and mixup of the others."""

    mixup_alpha: float = 0.0
    cutmix_probability: float = 0.0

    MIXUP: ClassVar[int] = 7
    CUTMIX: ClassVar[int] = 8

    def draw(self, draws: Draws, batch: TrainBatch) -> Numbers:
        numbers = {}
        if self.mixup_alpha:
            numbers["mixup"] = draws.beta(self.MIXUP, self.mixup_alpha)
        if self.cutmix_probability:
            numbers["cutmix"] = draws.uniform(self.CUTMIX, 4)
        return numbers

    def apply(self, batch: Augmented, numbers: Numbers) -> Augmented:
        images, share = mixing.random_mix(
            batch.image,
            mixup_share=numbers.get("mixup"),
            cutmix_drawn=numbers.get("cutmix"),
            cutmix_probability=self.cutmix_probability,
        )
        return Augmented(images, share)


OPERATIONS = (
    FlipAndTranslate,
    Affine,
    ColorJitter,
    AutoAugment,
    RandAugment,
    Cutout,
    Mix,
)


def create_operations(fields: Mapping[str, Any]) -> tuple[Operation, ...]:
    """Returns the operations that are on, in their order.

    Args:
      fields: Values of the fields of `config.augment` except `preset`, by name.
        An absent field is off.

    Raises:
      TypeError: A field is unknown.
    """
    known = {
        field.name for kind in OPERATIONS for field in dataclasses.fields(kind)
    }
    if unknown := sorted(fields.keys() - known):
        raise TypeError(f"unknown augmentation fields: {', '.join(unknown)}")
    created: list[Operation] = []
    for kind in OPERATIONS:
        own = dataclasses.fields(kind)
        values = {f.name: fields.get(f.name, f.default) for f in own}
        # `fill` alone enables nothing, because it needs pixels that move.
        if any(values[f.name] != f.default for f in own if f.name != "fill"):
            created.append(kind(**values))
    return tuple(created)
