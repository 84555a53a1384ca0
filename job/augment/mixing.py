"""Cutout, mixup and CutMix.

    cutout(images, center, pixels=8)
    images, share = random_mix(images, mixup_share=share, ...)

Position i of the global batch is mixed with position i XOR 1, so that a pair
never spans two replicas. The batch size of a replica must be even. Both images
of a pair get the same weight or the same box.
"""

import tensorflow as tf

from job.data.dataset import PIXEL_MEAN

GRAY = tuple(round(mean) for mean in PIXEL_MEAN)


def cutout(images: tf.Tensor, center: tf.Tensor, *, pixels: int) -> tf.Tensor:
    """Covers a square of each image with gray.

    Cutout is due to DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
      images: Images, float [b, h, w, 3], 0 to 255.
      center: Row and column of the square's center, float32 [b, 2]. The square
        may extend beyond the image.
      pixels: Height and width of the square in pixels.

    Returns:
      Images, [b, h, w, 3]. The square has CIFAR-10's channel means, which are
      standardized to zero.
    """
    start = center - pixels // 2
    square = _box(start, start + pixels, images.shape[1], images.shape[2])
    square = tf.cast(square, images.dtype)
    return images + square * (tf.constant(GRAY, images.dtype) - images)


def random_mix(
    images: tf.Tensor,
    *,
    mixup_share: tf.Tensor | None,
    cutmix_drawn: tf.Tensor | None,
    cutmix_probability: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each pair of images by CutMix or else by mixup.

    A pair uses the random numbers of its first image.

    Args:
      images: Images, float32 [b, h, w, c], b even.
      mixup_share: Weight of the image itself, float32 [b, 1]. If None, mixup is
        off.
      cutmix_drawn: Random numbers, float32 [b, 4], uniform over [0, 1). If
        None, CutMix is off.
      cutmix_probability: Fraction of the pairs that CutMix mixes, 0 to 1.

    Returns:
      Images, float32 [b, h, w, c], rounded to integers, and the weight of each
      image's own label, float32 [b].
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
    """Returns the boxes of CutMix with alpha 1 (Yun et al., arXiv:1905.04899).

    Args:
      drawn: Fraction of the image outside of the box (before clipping), and the
        box's center, float32 [b, 3], uniform over [0, 1).
      height: Height of the images in pixels.
      width: Width of the images in pixels.

    Returns:
      Masks, float32 [b, h, w, 1], 1 inside the clipped box and 0 outside.
    """
    size = tf.constant([[height, width]], tf.float32)
    sides = tf.floor(size * tf.sqrt(1 - drawn[:, :1]))
    center = tf.floor(size * drawn[:, 1:])
    start = center - tf.floor(sides / 2)
    return tf.cast(_box(start, start + sides, height, width), tf.float32)


def mix(images: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Mixes each image with its partner.

    Mixup is due to Zhang et al. 2018, arXiv:1710.09412.

    Args:
      images: Images, float32 [b, h, w, c], b even.
      own: Weight of the image itself, float32 [b, 1 or h, 1 or w, 1].

    Returns:
      Images, float32 [b, h, w, c], rounded to integers.
    """
    other = partner(images)
    return tf.floor(other + own * (images - other) + 0.5)


def partner(values: tf.Tensor) -> tf.Tensor:
    """Returns the value of position i XOR 1 at each position i, [b, ...].

    Args:
      values: Values, [b, ...], b even.
    """
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, axis=[1]), tf.shape(values))


def _of_pairs(drawn: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of the first image for both images of a pair."""
    return tf.repeat(drawn[::2], 2, axis=0)


def _box(
    start: tf.Tensor, stop: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Returns masks of the boxes from start to stop, bool [b, h, w, 1]."""
    y = tf.range(height, dtype=tf.float32)[None, :]
    x = tf.range(width, dtype=tf.float32)[None, :]
    down = (y >= start[:, :1]) & (y < stop[:, :1])
    right = (x >= start[:, 1:]) & (x < stop[:, 1:])
    return (down[:, :, None] & right[:, None, :])[..., None]
