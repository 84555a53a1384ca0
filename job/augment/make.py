"""Puts the operations together, in the order in which an image meets them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from job.augment import color, geometry, mixing, policies
from job.augment.draws import Draws, Purpose
from job.data.pipeline import TrainBatch


class Augmented(NamedTuple):
    """One replica's batch as the network sees it.

    Attributes:
      image: uint8 [b, 32, 32, 3], 0 to 255.
      share: None where no images are mixed; else float32 [b], 0 to 1: how
        much of the image is its own. The rest is the image at position i XOR 1,
        and so is the rest of the label.
    """

    image: tf.Tensor
    share: tf.Tensor | None


# (batch, step, replica) -> what the network sees; see `make_augment`.
Augment = Callable[[TrainBatch, tf.Tensor, tf.Tensor], Augmented]


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """What is done to an image: the fields of `config.augment`.

    See `configs/default.py` for units; 0 is off, and not traced at all.
    """

    flip: str = "none"
    translate: float = 0.0
    fill: str = "reflect"
    rotation_degrees: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    autoaugment: float = 0.0
    randaugment_magnitude: float = 0.0
    cutout_pixels: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_probability: float = 0.0


def make_augment(
    settings: AugmentSettings,
    *,
    seed: int,
    num_images: int,
    global_batch_size: int,
    num_replicas: int,
    jit_compile: bool = False,
) -> Augment:
    """Returns the function that augments one replica's batch.

    Args:
      settings: what is done.
      seed: of all draws.
      num_images: images in the training split.
      global_batch_size: images a step, B.
      num_replicas: R; a batch has b = B / R images, an even number where
        images are mixed.
      jit_compile: XLA for all but the draws.

    Returns:
      (batch, step int64 [], replica int32 [] from 0 to R - 1) -> `Augmented`.
    """
    size = global_batch_size // num_replicas
    if (settings.mixup_alpha or settings.cutmix_probability) and size % 2:
        raise ValueError(f"{size} images a replica do not make pairs")

    def apply(images: tf.Tensor, numbers: _Numbers) -> Augmented:
        return _apply(settings, images, numbers)

    if jit_compile:
        apply = tf.function(apply, jit_compile=True, autograph=False)

    def augment(
        batch: TrainBatch, step: tf.Tensor, replica: tf.Tensor
    ) -> Augmented:
        first = tf.cast(replica, tf.int32) * size
        draws = Draws(seed, step, global_batch_size, first, size)
        numbers = _draw(settings, draws, batch, num_images)
        if not numbers:
            return Augmented(batch.image, None)
        return apply(batch.image, numbers)

    return augment


# By name of the purpose: XLA's functions take no other keys.
_Numbers = dict[str, tf.Tensor]


def _draw(
    s: AugmentSettings, draws: Draws, batch: TrainBatch, num_images: int
) -> _Numbers:
    """Returns the random numbers of what is on, each [b, ...]."""
    numbers = {}
    if s.flip == "random":
        coins = draws.integers(Purpose.FLIP, 2)[:, 0]
        numbers["flip"] = tf.not_equal(coins, 0.0)
    if s.flip == "alternating":
        numbers["flip"] = geometry.alternating_flip(
            batch.index, batch.epoch, seed=draws.seed, num_images=num_images
        )
    if s.translate:
        most = int(s.translate)
        moves = draws.integers(Purpose.TRANSLATE, 2 * most + 1, 2)
        numbers["translate"] = moves - most
    if s.rotation_degrees or s.shift or s.shear or s.zoom:
        numbers["warp"] = draws.uniform(Purpose.WARP, 6)
    if s.brightness or s.contrast or s.saturation or s.hue:
        numbers["jitter"] = draws.uniform(Purpose.JITTER, 4)
    if s.autoaugment:
        numbers["autoaugment"] = draws.uniform(Purpose.AUTOAUGMENT, 5)
    if s.randaugment_magnitude:
        numbers["randaugment"] = draws.uniform(Purpose.RANDAUGMENT, 4)
    if s.cutout_pixels:
        size = batch.image.shape[1]
        numbers["cutout"] = draws.integers(Purpose.CUTOUT, size, 2)
    if s.mixup_alpha:
        numbers["mixup"] = draws.beta(Purpose.MIXUP, s.mixup_alpha)
    if s.cutmix_probability:
        numbers["cutmix"] = draws.uniform(Purpose.CUTMIX, 4)
    return numbers


def _apply(
    s: AugmentSettings, images: tf.Tensor, numbers: _Numbers
) -> Augmented:
    """Changes uint8 images as the numbers say; the same ones give the same."""
    # TensorFlow 2.21 gathers floats on a GPU, and not uint8, which would go to
    # the host and back without a word.
    images = tf.cast(images, tf.float32)
    size, height, width = images.shape[:3]
    share = None
    if "flip" in numbers or "translate" in numbers:
        images = geometry.flip_and_translate(
            images,
            numbers.get("flip"),
            numbers.get("translate", tf.zeros([size, 2])),
            fill=s.fill,
        )
    if "warp" in numbers:
        matrix = geometry.random_affine(
            numbers["warp"],
            rotation_degrees=s.rotation_degrees,
            shift=s.shift,
            shear=s.shear,
            zoom=s.zoom,
            height=height,
            width=width,
        )
        images = geometry.warp_bilinear(images, matrix, fill=s.fill)
    if "jitter" in numbers:
        images = color.jitter(
            images,
            numbers["jitter"],
            brightness=s.brightness,
            contrast=s.contrast,
            saturation=s.saturation,
            hue=s.hue,
        )
    if "autoaugment" in numbers:
        images = policies.apply_autoaugment(
            images, numbers["autoaugment"], share=s.autoaugment, fill=s.fill
        )
    if "randaugment" in numbers:
        images = policies.apply_randaugment(
            images,
            numbers["randaugment"],
            magnitude=s.randaugment_magnitude,
            fill=s.fill,
        )
    if "cutout" in numbers:
        images = mixing.cutout(
            images, numbers["cutout"], pixels=int(s.cutout_pixels)
        )
    if "mixup" in numbers or "cutmix" in numbers:
        images, share = mixing.random_mix(
            images,
            mixup_share=numbers.get("mixup"),
            cutmix_drawn=numbers.get("cutmix"),
            cutmix_probability=s.cutmix_probability,
        )
    return Augmented(tf.cast(images, tf.uint8), share)
