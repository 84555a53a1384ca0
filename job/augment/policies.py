"""AutoAugment and RandAugment on whole batches, with operations per image.

An operation with its value is a row of numbers; see `row`. These are an affine
map, a blend and a color table, all but one of them neutral. A policy is a
constant array of rows, of which each image draws two. The computation is
therefore equal for all images and policies. It runs once for all operations of
a kind:

    blend, colors    of the first operation
    warp             of both, in one gather of pixels
    blend, colors    of the second

The operations are those of Pillow, with its rounding. Their values are those of
`torchvision.transforms.AutoAugment` and `RandAugment`, which come from Cubuk et
al. 2019, arXiv:1805.09501, and 2020, arXiv:1909.13719.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job.augment import color, geometry

Rows = npt.NDArray[np.float32]

# Columns of a row: affine map, blend (factor, with gray, with smooth), colors
# (factor, about the mean, solarize threshold, posterize step, autocontrast,
# equalize).
_WARP, _BLEND, _COLORS = slice(0, 6), slice(6, 9), slice(9, 15)
_NEUTRAL = (1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 256, 1, 0, 0)

_LEVELS = 256
# Value of each operation with a sign, at magnitude 1.
_SIGNED = {
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,  # Fraction: 150 px of 331 px for ImageNet.
    "translate_y": 150 / 331,
    "rotate": 30.0,
    "brightness": 0.9,
    "color": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
}
# Operations with neutral value 1.
BLENDS = ("brightness", "contrast", "color", "sharpness")
# The 14 operations of RandAugment.
RANDAUGMENT = (
    *("identity", "autocontrast", "equalize", "posterize", "solarize"),
    *_SIGNED,
)
# AutoAugment's policy for CIFAR-10: 25 pairs of (operation, probability,
# magnitude 0 to 9), Cubuk et al. 2019, table 7.
AUTOAUGMENT = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


class Policy(NamedTuple):
    """Distribution of pairs of operations.

    Attributes:
      rows: Rows of the first and second operations, float32
        [2, n, signs, 15].
      probability: Probability of each operation, float32 [2, n].
    """

    rows: Rows
    probability: Rows


def autoaugment_policy(height: int, width: int) -> Policy:
    """Returns AutoAugment's 25 sub-policies for CIFAR-10."""
    rows = [
        [
            _signed(name, magnitude / 9, height, width)
            for name, _, magnitude in s
        ]
        for s in zip(*AUTOAUGMENT, strict=True)
    ]
    chances = [[p for _, p, _ in s] for s in zip(*AUTOAUGMENT, strict=True)]
    return Policy(np.array(rows, np.float32), np.array(chances, np.float32))


def randaugment_policy(magnitude: float, height: int, width: int) -> Policy:
    """Returns RandAugment's operations at a magnitude, 0 to 10.

    Both operations are drawn from all 14 and always applied (N = 2).
    """
    rows = np.array(
        [_signed(name, magnitude / 10, height, width) for name in RANDAUGMENT],
        np.float32,
    )
    return Policy(np.stack([rows, rows]), np.ones([2, len(rows)], np.float32))


def apply_autoaugment(
    images: tf.Tensor, drawn: tf.Tensor, *, share: float, fill: str
) -> tf.Tensor:
    """Applies a random sub-policy to each image.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      drawn: Random numbers, float32 [b, 5], uniform over [0, 1).
      share: Fraction of the images to change, 1.0 in the paper.
      fill: Source of outside pixels; see `geometry`.

    Returns:
      Images, float32 [b, h, w, 3], integers 0 to 255.
    """
    policy = autoaugment_policy(*images.shape[1:3])
    chosen = drawn[:, 0] * (policy.rows.shape[1] / share)
    stages = [
        _draw(policy, k, chosen, drawn[:, 1 + k], drawn[:, 3 + k])
        for k in range(2)
    ]
    return apply(images, stages, fill=fill)


def apply_randaugment(
    images: tf.Tensor, drawn: tf.Tensor, *, magnitude: float, fill: str
) -> tf.Tensor:
    """Applies two random operations to each image.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      drawn: Random numbers, float32 [b, 4], uniform over [0, 1).
      magnitude: Magnitude of the operations, 0 to 10.
      fill: Source of outside pixels; see `geometry`.

    Returns:
      Images, float32 [b, h, w, 3], integers 0 to 255.
    """
    policy = randaugment_policy(magnitude, *images.shape[1:3])
    chosen = drawn[:, :2] * policy.rows.shape[1]
    always = tf.zeros_like(drawn[:, 0])
    stages = [
        _draw(policy, k, chosen[:, k], drawn[:, 2 + k], always)
        for k in range(2)
    ]
    return apply(images, stages, fill=fill)


def apply(
    images: tf.Tensor, stages: list[tf.Tensor], *, fill: str
) -> tf.Tensor:
    """Applies one or two operations, different ones per image.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      stages: Operations in order, each float32 [b, 15]; see `row`.
      fill: Source of outside pixels; see `geometry`.

    Returns:
      Images, float32 [b, h, w, 3], integers 0 to 255.
    """
    first, *second = stages
    images = _recolor(_blend(images, first[:, _BLEND]), first[:, _COLORS])
    maps = [tf.reshape(stage[:, _WARP], [-1, 2, 3]) for stage in stages]
    images = geometry.warp_nearest(images, maps, fill=fill)
    for stage in second:
        images = _recolor(_blend(images, stage[:, _BLEND]), stage[:, _COLORS])
    return images


def row(name: str, value: float, height: int = 32, width: int = 32) -> Rows:
    """Returns an operation with its value as float32 [15], for `apply`.

    Args:
      name: Name of the operation, one of these in Pillow:
        identity      -
        shear_x       `transform(size, AFFINE, (1, value, 0, 0, 1, 0))`
        shear_y       `transform(size, AFFINE, (1, 0, 0, value, 1, 0))`
        translate_x   `transform(size, AFFINE, (1, 0, value, 0, 1, 0))`
        translate_y   `transform(size, AFFINE, (1, 0, 0, 0, 1, value))`
        rotate        `rotate(value)`, degrees counter-clockwise
        brightness    `ImageEnhance.Brightness(...).enhance(value)`
        contrast      `ImageEnhance.Contrast(...).enhance(value)`
        color         `ImageEnhance.Color(...).enhance(value)`
        sharpness     `ImageEnhance.Sharpness(...).enhance(value)`
        posterize     `ImageOps.posterize(..., value)`, bits kept
        solarize      `ImageOps.solarize(..., value)`, threshold
        invert        `ImageOps.invert`
        autocontrast  `ImageOps.autocontrast`
        equalize      `ImageOps.equalize`
      value: Value of the operation, ignored by the last three and identity.
      height: Height of the images in pixels.
      width: Width of the images in pixels.
    """
    made = np.array(_NEUTRAL, np.float32)
    # Pillow's origin is the corner of a pixel, half a pixel from its center.
    match name:
        case "identity":
            pass
        case "shear_x":
            made[4:6] = 1, value / 2
            made[3] = value
        case "shear_y":
            made[1:3] = value, value / 2
        case "translate_x":
            made[5] = value
        case "translate_y":
            made[2] = value
        case "rotate":
            sine, cosine = (
                f(math.radians(value)) for f in (math.sin, math.cos)
            )
            y, x = (height - 1) / 2, (width - 1) / 2
            made[0:3] = cosine, sine, y - cosine * y - sine * x
            made[3:6] = -sine, cosine, x + sine * y - cosine * x
        case "color":
            made[6:9] = value, 1, 0
        case "sharpness":
            made[6:9] = value, 0, 1
        case "brightness":
            made[9] = value
        case "contrast":
            made[9:11] = value, 1
        case "solarize":
            made[11] = value
        case "invert":
            made[11] = 0
        case "posterize":
            made[12] = 2 ** (8 - round(value))
        case "autocontrast":
            made[13] = 1
        case "equalize":
            made[14] = 1
        case _:
            raise ValueError(f"unknown operation {name!r}")
    return made


def _signed(name: str, magnitude: float, height: int, width: int) -> Rows:
    """Returns the rows of both signs of an operation, float32 [2, 15].

    Args:
      name: Name of the operation; see `row`.
      magnitude: Magnitude, 0 to 1.
      height: Height of the images in pixels.
      width: Width of the images in pixels.
    """

    def value(sign: int) -> float:
        if name == "posterize":
            return 8 - round(4 * magnitude)
        if name == "solarize":
            return 255 * (1 - magnitude)
        strength = sign * magnitude * _SIGNED.get(name, 0.0)
        if name.startswith("translate"):
            return int(strength * (width if name.endswith("x") else height))
        if name in BLENDS:
            return 1 + strength
        return strength

    return np.stack([row(name, value(s), height, width) for s in (-1, 1)])


def _draw(
    policy: Policy,
    stage: int,
    chosen: tf.Tensor,
    sign: tf.Tensor,
    chance: tf.Tensor,
) -> tf.Tensor:
    """Returns the row of each image at a stage, neutral if not applied.

    Args:
      policy: Policy of n pairs of operations.
      stage: Index of the operation, 0 or 1.
      chosen: Index of the pair, float32 [b], rounded down. If n or more, no
        operation is applied.
      sign: Random numbers for the sign, float32 [b], uniform over [0, 1).
      chance: Random numbers for the probability, float32 [b], uniform over
        [0, 1).

    Returns:
      Rows, float32 [b, 15].
    """
    count = policy.rows.shape[1]
    table = np.concatenate(
        [policy.rows[stage].reshape(2 * count, -1), [_NEUTRAL]]
    ).astype(np.float32)
    chosen = tf.minimum(tf.floor(chosen), count)
    likely = tf.gather(
        tf.constant(np.append(policy.probability[stage], 0), tf.float32),
        tf.cast(chosen, tf.int32),
    )
    place = tf.where(
        chance < likely, 2 * chosen + tf.floor(2 * sign), 2.0 * count
    )
    return tf.gather(tf.constant(table), tf.cast(place, tf.int32))


def _blend(images: tf.Tensor, blends: tf.Tensor) -> tf.Tensor:
    """Blends with the gray image, the smoothed one, or neither."""
    factor, to_gray, to_smooth = (
        blends[:, i, None, None, None] for i in range(3)
    )
    inside = images[:, 1:-1, 1:-1]
    detail = to_smooth * (inside - color.smooth(images))
    difference = to_gray * (images - color.gray(images)) + tf.pad(
        detail, [[0, 0], [1, 1], [1, 1], [0, 0]]
    )
    # All values are integers, so images - difference is exactly Pillow's image.
    blended = (images - difference) + factor * difference
    return tf.floor(tf.clip_by_value(blended, 0.0, 255.0))


def _recolor(images: tf.Tensor, colors: tf.Tensor) -> tf.Tensor:
    """Maps every value by the table of its image and channel."""
    height, width, channels = images.shape[1:]
    offsets = [_LEVELS * c for c in range(channels)]
    places = images + tf.constant(offsets, tf.float32)
    places = tf.cast(
        tf.reshape(places, [-1, height * width * channels]), tf.int32
    )
    # XLA cannot compile tf.math.bincount, whose size depends on the input. With
    # float32 weights XLA's deterministic kernel adds one pixel after another.
    counts = tf.raw_ops.DenseBincount(
        input=places,
        size=_LEVELS * channels,
        weights=tf.constant([], tf.int32),
    )
    counts = tf.cast(counts, tf.float32)
    counts = tf.reshape(counts, [-1, channels, _LEVELS])
    tables = _tables(counts, color.mean_gray(color.gray(images)), colors)
    tables = tf.reshape(tables, [-1, channels * _LEVELS])
    recolored = tf.gather(tables, places, batch_dims=1)
    return tf.reshape(recolored, tf.shape(images))


def _tables(counts: tf.Tensor, mean: tf.Tensor, colors: tf.Tensor) -> tf.Tensor:
    """Returns the new value of each pixel value, float32 [b, 3, 256].

    Args:
      counts: Number of pixels of each value, float32 [b, 3, 256].
      mean: Mean gray, float32 [b].
      colors: Color columns of the rows, float32 [b, 6]; see `_NEUTRAL`.
    """
    factor, about_mean, solarize, posterize, autocontrast, equalize = (
        colors[:, i, None, None] for i in range(6)
    )
    levels = tf.range(_LEVELS, dtype=tf.float32)
    black = about_mean * mean[:, None, None]
    table = black + factor * (levels - black)
    table = tf.floor(tf.clip_by_value(table, 0.0, 255.0))
    table = tf.where(levels < solarize, table, 255 - table)
    table = posterize * tf.floor(table / posterize)

    present = counts > 0
    highest = tf.reduce_max(tf.where(present, levels, 0.0), 2, keepdims=True)
    lowest = tf.reduce_min(tf.where(present, levels, 255.0), 2, keepdims=True)
    span = highest - lowest
    # A margin of 0.5 keeps the floor exact in spite of rounding errors.
    stretched = tf.floor(
        ((levels - lowest) * 255 + 0.5) / tf.maximum(span, 1.0)
    )
    stretched = tf.clip_by_value(stretched, 0.0, 255.0)
    table = tf.where((autocontrast > 0) & (span > 0), stretched, table)

    below = tf.cumsum(counts, axis=2, exclusive=True)
    total = tf.reduce_sum(counts, 2, keepdims=True)
    at_highest = tf.reduce_sum(
        tf.where(tf.equal(levels, highest), counts, 0.0), 2, keepdims=True
    )
    step = tf.floor((total - at_highest + 0.5) / 255)
    flat = tf.floor((tf.floor(step / 2) + below + 0.5) / tf.maximum(step, 1.0))
    return tf.where((equalize > 0) & (step > 0), tf.minimum(flat, 255.0), table)
