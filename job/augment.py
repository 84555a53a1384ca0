"""Augmentation: on the device, on whole batches, stateless.

A batch comes in as the pipeline gives it and leaves with the same shape and
type, changed. All randomness is keyed by (seed, step, position in the global
batch): it is drawn for the whole global batch and then sliced, so 1, 2 and 8
replicas show the network the same images, and a resumed run shows what the
uninterrupted one would have shown.

    augment = make_augment(flip="alternating", translate=4, ...)
    images = augment(batch, step, replica)

An operation is a function of (images, draws): pixels here, numbers there, so
that it can be tested against a plain reference.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from job.data.pipeline import TrainBatch

Augment = Callable[[TrainBatch, tf.Tensor, tf.Tensor], tf.Tensor]

# Tells the draws apart. A number, once given, stays: it fixes past results.
_FLIP, _TRANSLATE, _CUTOUT = range(3)


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random numbers of one step, for one replica's part of the batch.

    Attributes:
      seed: of the run.
      step: int64 [], the training step.
      global_batch_size: for how many images is drawn.
      first: int32 [], this replica's first position in the global batch.
      size: how many of them are this replica's, b.
    """

    seed: int
    step: tf.Tensor
    global_batch_size: int
    first: tf.Tensor
    size: int

    def integers(self, purpose: int, high: int, columns: int = 1) -> tf.Tensor:
        """Returns int32 [b, columns], uniform over 0 to high - 1."""
        key = tf.random.experimental.stateless_fold_in(
            tf.constant([self.seed, purpose], tf.int64), self.step, alg="philox"
        )
        drawn = tf.random.stateless_uniform(
            [self.global_batch_size, columns],
            key,
            maxval=high,
            dtype=tf.int32,
            alg="philox",
        )
        return tf.ensure_shape(
            drawn[self.first : self.first + self.size], [self.size, columns]
        )


def make_augment(
    *,
    flip: str,
    translate: int,
    fill: str,
    cutout_pixels: int,
    seed: int,
    num_images: int,
    global_batch_size: int,
    num_replicas: int,
) -> Augment:
    """Returns the function that augments one replica's batch.

    Args:
      flip: none, random or alternating.
      translate: most pixels that an image moves, each way; 0 is off.
      fill: what comes in from outside: reflect, nearest or zero.
      cutout_pixels: side of the square painted over; 0 is off.
      seed: of all draws.
      num_images: images in the training split.
      global_batch_size: images a step, B.
      num_replicas: R; a batch has b = B / R images.

    Returns:
      (batch, step int64 [], replica int32 [] from 0 to R - 1) -> uint8
      [b, 32, 32, 3], 0 to 255.
    """
    size = global_batch_size // num_replicas

    def augment(
        batch: TrainBatch, step: tf.Tensor, replica: tf.Tensor
    ) -> tf.Tensor:
        first = tf.cast(replica, tf.int32) * size
        draws = Draws(seed, step, global_batch_size, first, size)
        # TensorFlow 2.21 gathers bfloat16 on a GPU, and not uint8, which would
        # go to the host and back without a word; 0 to 255 are exact in both.
        images = tf.cast(batch.image, tf.bfloat16)
        mirrored = None
        if flip == "random":
            mirrored = tf.equal(draws.integers(_FLIP, 2)[:, 0], 1)
        elif flip == "alternating":
            mirrored = alternating_flip(
                batch.index, batch.epoch, seed=seed, num_images=num_images
            )
        if mirrored is not None or translate:
            shift = (
                draws.integers(_TRANSLATE, 2 * translate + 1, 2) - translate
                if translate
                else tf.zeros([size, 2], tf.int32)
            )
            images = flip_and_translate(images, mirrored, shift, fill=fill)
        if cutout_pixels:
            centre = draws.integers(_CUTOUT, images.shape[1], 2)
            images = cutout(images, centre, pixels=cutout_pixels)
        return tf.cast(images, tf.uint8)

    return augment


def alternating_flip(
    index: tf.Tensor, epoch: tf.Tensor, *, seed: int, num_images: int
) -> tf.Tensor:
    """Says which images to mirror: each one in every other epoch.

    Which half of them starts mirrored is random. Compared with a coin for each
    image and time, no image is seen the same way twice in a row (Jordan 2024,
    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498).

    Args:
      index: int32 [b], 0 to num_images - 1.
      epoch: int32 [b], from 0.
      seed: of the first epoch's coins.
      num_images: images in the training split.

    Returns:
      bool [b].
    """
    coins = tf.random.stateless_uniform(
        [num_images],
        tf.constant([seed, _FLIP], tf.int64),
        minval=None,
        maxval=None,
        dtype=tf.int32,
        alg="philox",
    )
    return tf.equal((tf.gather(coins, index) + epoch) & 1, 1)


def flip_and_translate(
    images: tf.Tensor,
    mirrored: tf.Tensor | None,
    shift: tf.Tensor,
    *,
    fill: str,
) -> tf.Tensor:
    """Mirrors images left to right, then moves them by whole pixels.

    Both at once, as a choice of rows and one of columns: each pixel is copied
    twice and nothing is padded.

    Args:
      images: [b, h, w, c], any type.
      mirrored: bool [b], or None for no image.
      shift: int32 [b, 2], pixels down and to the right; smaller than h and w.
      fill: reflect (the border is not repeated), nearest or zero.

    Returns:
      [b, h, w, c]; pixel (y, x) is the mirrored image's (y - down, x - right).
    """
    height, width = images.shape[1], images.shape[2]
    y = tf.range(height)[None, :] - shift[:, :1]
    x = tf.range(width)[None, :] - shift[:, 1:]
    rows, columns = _inside(y, height, fill), _inside(x, width, fill)
    if mirrored is not None:
        columns = tf.where(mirrored[:, None], width - 1 - columns, columns)
    moved = tf.gather(images, rows, batch_dims=1, axis=1)
    moved = tf.gather(moved, columns, batch_dims=1, axis=2)
    if fill == "zero":
        kept = tf.equal(rows, y)[:, :, None] & _within(x, width)[:, None, :]
        moved = tf.where(kept[..., None], moved, tf.zeros([], images.dtype))
    return moved


def cutout(images: tf.Tensor, centre: tf.Tensor, *, pixels: int) -> tf.Tensor:
    """Paints a grey square over each image.

    DeVries & Taylor 2017, arXiv:1708.04552.

    Args:
      images: [b, h, w, 3], 0 to 255, any type.
      centre: int32 [b, 2], row and column; the square may reach outside.
      pixels: side of the square.

    Returns:
      [b, h, w, 3], the square set to the channels' means in CIFAR-10,
      which is what zero is to the network.
    """

    def covered(middle: tf.Tensor, size: int) -> tf.Tensor:
        offset = tf.range(size)[None, :] - middle[:, None] + pixels // 2
        return (offset >= 0) & (offset < pixels)

    down = covered(centre[:, 0], images.shape[1])
    right = covered(centre[:, 1], images.shape[2])
    square = (down[:, :, None] & right[:, None, :])[..., None]
    return tf.where(square, tf.constant(_GREY, images.dtype), images)


# Means of CIFAR-10's training images, as `model.PIXEL_MEAN`, in whole numbers.
_GREY = (125, 123, 114)


def _within(index: tf.Tensor, size: int) -> tf.Tensor:
    return (index >= 0) & (index < size)


def _inside(index: tf.Tensor, size: int, fill: str) -> tf.Tensor:
    """Moves indices from outside into 0 to size - 1."""
    if fill == "reflect":
        return size - 1 - tf.abs(size - 1 - tf.abs(index))
    return tf.clip_by_value(index, 0, size - 1)
