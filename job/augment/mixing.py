"""Cutout, mixup and CutMix.

    cutout(images, centre, pixels=8)
    images, share = random_mix(images, mixup_share=share, ...)

Images are mixed in pairs: position i of the global batch with i XOR 1, so that
a pair never spans two replicas. A replica's batch must be even. Both images of
a pair get the same weight or the same box.
"""

import tensorflow as tf

from job.data.dataset import PIXEL_MEAN

GREY = tuple(round(mean) for mean in PIXEL_MEAN)


def cutout(images: tf.Tensor, centre: tf.Tensor, *, pixels: int) -> tf.Tensor:
    """Covers a square of each image with gray.

    DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
      images: float [b, h, w, 3], 0 to 255.
      centre: float32 [b, 2], row and column of the square's center. The square
        may extend beyond the image.
      pixels: Size of the square.

    Returns:
      [b, h, w, 3], the square set to CIFAR-10's channel means, which the
      network sees as zero.
    """
    start = centre - pixels // 2
    square = _box(start, start + pixels, images.shape[1], images.shape[2])
    square = tf.cast(square, images.dtype)
    return images + square * (tf.constant(GREY, images.dtype) - images)


def random_mix(
    images: tf.Tensor,
    *,
    mixup_share: tf.Tensor | None,
    cutmix_drawn: tf.Tensor | None,
    cutmix_probability: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each pair by CutMix or, if it is not chosen, by mixup.

    A pair uses the random numbers of its first image.

    Args:
      images: float32 [b, h, w, c], b even.
      mixup_share: float32 [b, 1], weight of the image itself. If None, there is
        no mixup.
      cutmix_drawn: float32 [b, 4], uniform over [0, 1). If None, there is no
        CutMix.
      cutmix_probability: Fraction of the pairs that CutMix mixes.

    Returns:
      float32 [b, h, w, c] of integers, and float32 [b], the weight of the
      image's own label.
    """
    size, height, width = images.shape[:3]
    if mixup_share is None:
        share = tf.ones([size, 1])
    else:
        share = _of_pairs(mixup_share)
    own = share[:, :, None, None]
    if cutmix_drawn is not None:
        drawn = _of_pairs(cutmix_drawn)
        box = cutmix_box(drawn[:, 1:], height, width)
        area = tf.reduce_sum(box, axis=[1, 2, 3])[:, None]
        cut = tf.cast(drawn[:, :1] < cutmix_probability, tf.float32)
        own += cut[:, :, None, None] * (1 - box - own)
        share += cut * (1 - area / (height * width) - share)
    return mix(images, own), share[:, 0]


def cutmix_box(drawn: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns the boxes of CutMix (Yun et al. 2019, arXiv:1905.04899; alpha 1).

    Args:
      drawn: float32 [b, 3], uniform over [0, 1): fraction of the image outside
        of the box (before clipping), and the box's center.
      height: Height of the images.
      width: Width of the images.

    Returns:
      float32 [b, h, w, 1]: 1 inside the box, clipped at the border, else 0.
    """
    size = tf.constant([[height, width]], tf.float32)
    sides = tf.floor(size * tf.sqrt(1 - drawn[:, :1]))
    centre = tf.floor(size * drawn[:, 1:])
    start = centre - tf.floor(sides / 2)
    return tf.cast(_box(start, start + sides, height, width), tf.float32)


def mix(images: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Mixes each image with its partner.

    Mixup is due to Zhang et al. 2018, arXiv:1710.09412.

    Args:
      images: float32 [b, h, w, c], b even.
      own: float32 [b, 1 or h, 1 or w, 1], weight of the image itself.

    Returns:
      float32 [b, h, w, c], rounded to integers.
    """
    other = partner(images)
    return tf.floor(other + own * (images - other) + 0.5)


def partner(values: tf.Tensor) -> tf.Tensor:
    """Returns [b, ...]: position i has the value of i XOR 1; b is even."""
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, axis=[1]), tf.shape(values))


def _of_pairs(drawn: tf.Tensor) -> tf.Tensor:
    """Returns [b, ...]: both images of a pair have the first one's numbers."""
    return tf.repeat(drawn[::2], 2, axis=0)


def _box(
    start: tf.Tensor, stop: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Returns bool [b, h, w, 1]: True from start to stop, exclusive, [b, 2]."""
    y = tf.range(height, dtype=tf.float32)[None, :]
    x = tf.range(width, dtype=tf.float32)[None, :]
    down = (y >= start[:, :1]) & (y < stop[:, :1])
    right = (x >= start[:, 1:]) & (x < stop[:, 1:])
    return (down[:, :, None] & right[:, None, :])[..., None]
