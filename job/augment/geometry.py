"""Geometric operations: flip, translation and affine warps.

The center of pixel (y, x) is at (y, x). Coordinates are float32 even if they
are integers (see `draws`). `fill` is the source of pixels outside of the image:

    reflect   c b | a b c d | c b     the border is not repeated
    nearest   a a | a b c d | d d
    zero      0 0 | a b c d | 0 0     black
"""

import math
from collections.abc import Sequence

import tensorflow as tf


def alternating_flip(
    index: tf.Tensor,
    epoch: tf.Tensor,
    *,
    seed: int,
    purpose: int,
    num_images: int,
) -> tf.Tensor:
    """Returns whether to flip each image, which is so in every other epoch.

    A random half of the images is flipped in the first epoch. In contrast to
    independent random flips, an image never repeats in two consecutive epochs
    (Jordan 2024, arXiv:2404.00498).

    Args:
      index: Index of each image in the training split, int32 [b].
      epoch: Epoch of each image, int32 [b], from 0.
      seed: Seed of the flips of the first epoch.
      purpose: Purpose of the draw; see `draws`.
      num_images: Number of images in the training split.

    Returns:
      Whether to flip each image, bool [b].
    """
    with tf.init_scope(), tf.device("CPU:0"):
        drawn = tf.random.stateless_uniform(
            [num_images],
            tf.constant([seed, purpose], tf.int64),
            minval=None,
            maxval=None,
            dtype=tf.int32,
            alg="philox",
        )
        coins = (drawn.numpy() & 1).astype("float32")
    turns = tf.gather(tf.constant(coins), index) + tf.cast(epoch, tf.float32)
    return tf.not_equal(_modulo(turns, 2.0), 0.0)


def flip_and_translate(
    images: tf.Tensor,
    mirrored: tf.Tensor | None,
    shift: tf.Tensor,
    *,
    fill: str,
) -> tf.Tensor:
    """Flips images left to right, then moves them by integer offsets.

    Both are one gather of rows and one of columns, without padding.

    Args:
      images: Images, [b, h, w, c], any type.
      mirrored: Whether to flip each image, bool [b]. If None, none is flipped.
      shift: Integer offsets down and to the right, float32 [b, 2].
      fill: Source of outside pixels: reflect, nearest or zero.

    Returns:
      Images, [b, h, w, c]. Pixel (y, x) is the flipped image's pixel
      (y - down, x - right).
    """
    height, width = images.shape[1], images.shape[2]
    y = tf.range(height, dtype=tf.float32)[None, :] - shift[:, :1]
    x = tf.range(width, dtype=tf.float32)[None, :] - shift[:, 1:]
    rows, columns = _inside(y, height, fill), _inside(x, width, fill)
    if mirrored is not None:
        columns = tf.where(mirrored[:, None], width - 1 - columns, columns)
    rows, columns = tf.cast(rows, tf.int32), tf.cast(columns, tf.int32)
    moved = tf.gather(images, rows, batch_dims=1, axis=1)
    moved = tf.gather(moved, columns, batch_dims=1, axis=2)
    if fill == "zero":
        kept = _within(y, height)[:, :, None] & _within(x, width)[:, None, :]
        moved *= tf.cast(kept, images.dtype)[..., None]
    return moved


def random_affine(
    drawn: tf.Tensor,
    *,
    rotation_degrees: float,
    shift: float,
    shear: float,
    zoom: float,
    height: int,
    width: int,
) -> tf.Tensor:
    """Returns an affine map per image, composed as Keras composes it.

    As in `keras.preprocessing.image.ImageDataGenerator.random_transform`, it is
    rotation times shift times shear times zoom about the image's center, each
    uniform. Its `shear_range` is an angle in degrees. The popular value 0.1
    therefore moves no pixel by more than 0.03.

    Args:
      drawn: Random numbers, float32 [b, 6], uniform over [0, 1).
      rotation_degrees: Largest angle in either direction, in degrees.
      shift: Largest shift in either direction, as a fraction of height and of
        width.
      shear: Largest shear angle in either direction, in degrees.
      zoom: Largest zoom. Height and width are scaled separately, by factors
        from 1 - zoom to 1 + zoom. Above 1 the image gets smaller.
      height: Height of the images in pixels.
      width: Width of the images in pixels.

    Returns:
      Matrices for `warp_bilinear`, float32 [b, 2, 3].
    """
    both_ways = 2 * drawn - 1
    angle, down, right, slant, zoom_y, zoom_x = tf.unstack(both_ways, axis=1)
    return affine(
        angle * math.radians(rotation_degrees),
        down * (shift * height),
        right * (shift * width),
        slant * math.radians(shear),
        1 + zoom_y * zoom,
        1 + zoom_x * zoom,
        height=height,
        width=width,
    )


def affine(
    rotation: tf.Tensor,
    down: tf.Tensor,
    right: tf.Tensor,
    shear: tf.Tensor,
    zoom_y: tf.Tensor,
    zoom_x: tf.Tensor,
    *,
    height: int,
    width: int,
) -> tf.Tensor:
    """Returns rotation (shift (shear (zoom))) about the center of an image.

    Args:
      rotation: Angle in radians, float32 [b].
      down: Downward shift of the position that is read, in pixels, float32 [b].
      right: Shift of that position to the right, in pixels, float32 [b].
      shear: Shear angle in radians, float32 [b].
      zoom_y: Ratio of the height that is read to the height, float32 [b].
      zoom_x: Ratio of the width that is read to the width, float32 [b].
      height: Height of the images in pixels.
      width: Width of the images in pixels.

    Returns:
      Matrices for `warp_bilinear`, float32 [b, 2, 3].
    """
    sine, cosine = tf.sin(rotation), tf.cos(rotation)
    # The matrix in (y, x) is that of the rotation, [[cos, sin], [-sin, cos]],
    # times that of the shear, [[cos, 0], [-sin, 1]], times the zoom.
    yy = (cosine * tf.cos(shear) - sine * tf.sin(shear)) * zoom_y
    xy = -(sine * tf.cos(shear) + cosine * tf.sin(shear)) * zoom_y
    yx, xx = sine * zoom_x, cosine * zoom_x
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y0 = cosine * down + sine * right + middle_y
    x0 = cosine * right - sine * down + middle_x
    y0 -= yy * middle_y + yx * middle_x
    x0 -= xy * middle_y + xx * middle_x
    return tf.reshape(tf.stack([yy, yx, y0, xy, xx, x0], axis=1), [-1, 2, 3])


def warp_bilinear(
    images: tf.Tensor, matrix: tf.Tensor, *, fill: str
) -> tf.Tensor:
    """Warps images with bilinear interpolation.

    Args:
      images: Images, float32 [b, h, w, c], 0 to 255.
      matrix: Affine maps, float32 [b, 2, 3], from (y, x, 1) of a pixel of the
        result to the position (y, x) that is read.
      fill: Source of outside pixels: reflect, nearest or zero.

    Returns:
      Images, float32 [b, h, w, c], rounded to integers.
    """
    height, width, channels = images.shape[1:]
    y, x = _places(matrix, *_grid(height, width))
    seen = None
    if fill == "zero":
        # The image fades to black between the border and the next pixel.
        seen = _seen(y, height) * _seen(x, width)
    y, x = _inside(y, height, fill), _inside(x, width, fill)
    top = tf.minimum(tf.floor(y), height - 2.0)
    left = tf.minimum(tf.floor(x), width - 2.0)
    # The four neighbors are adjacent, so that one gather fetches them.
    rows = tf.concat([images[:, :-1], images[:, 1:]], axis=3)
    quads = tf.concat([rows[:, :, :-1], rows[:, :, 1:]], axis=3)
    quads = _take(quads, top * (width - 1) + left)
    quads = tf.reshape(quads, [-1, height * width, 2, 2, channels])
    right, down = (x - left)[:, :, None, None], (y - top)[:, :, None]
    pairs = quads[:, :, 0] + right * (quads[:, :, 1] - quads[:, :, 0])
    warped = pairs[:, :, 0] + down * (pairs[:, :, 1] - pairs[:, :, 0])
    if seen is not None:
        warped *= seen[:, :, None]
    return tf.reshape(tf.floor(warped + 0.5), tf.shape(images))


def warp_nearest(
    images: tf.Tensor, matrices: Sequence[tf.Tensor], *, fill: str
) -> tf.Tensor:
    """Warps images by several maps in turn, each with nearest neighbors.

    The result equals that of one call per map, but pixels are gathered once.

    Args:
      images: Images, [b, h, w, c], of a float type.
      matrices: Affine maps, each float32 [b, 2, 3], as in `warp_bilinear`.
      fill: Source of outside pixels: reflect, nearest or zero.

    Returns:
      Images, [b, h, w, c], of the same type.
    """
    height, width = images.shape[1], images.shape[2]
    y, x = _grid(height, width)
    kept = None
    for matrix in reversed(matrices):
        y, x = _places(matrix, y, x)
        y, x = tf.floor(y + 0.5), tf.floor(x + 0.5)
        if fill == "zero":
            within = _within(y, height) & _within(x, width)
            kept = within if kept is None else kept & within
        y, x = _inside(y, height, fill), _inside(x, width, fill)
    warped = _take(images, y * width + x)
    if kept is not None:
        warped *= tf.cast(kept, images.dtype)[:, :, None]
    return tf.reshape(warped, tf.shape(images))


def _grid(height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns y and x of every pixel, float32 [1, h * w] each."""
    y, x = tf.meshgrid(
        tf.range(height, dtype=tf.float32),
        tf.range(width, dtype=tf.float32),
        indexing="ij",
    )
    return tf.reshape(y, [1, -1]), tf.reshape(x, [1, -1])


def _places(
    matrix: tf.Tensor, y: tf.Tensor, x: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    to = [[matrix[:, i, j, None] for j in range(3)] for i in range(2)]
    return (
        to[0][0] * y + (to[0][1] * x + to[0][2]),
        to[1][0] * y + (to[1][1] * x + to[1][2]),
    )


def _take(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns the pixels at flat indices, float32 [b, n], as [b, n, c]."""
    count, channels = images.shape[1] * images.shape[2], images.shape[3]
    flat = tf.reshape(images, [-1, count, channels])
    return tf.gather(flat, tf.cast(places, tf.int32), batch_dims=1)


def _within(index: tf.Tensor, size: int) -> tf.Tensor:
    return (index >= 0) & (index <= size - 1)


def _seen(place: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the weight of a bilinear sample that is inside the image."""
    outside = tf.maximum(-place, place - (size - 1))
    return tf.clip_by_value(1 - outside, 0.0, 1.0)


def _inside(place: tf.Tensor, size: int, fill: str) -> tf.Tensor:
    """Maps coordinates outside of the image into 0 to size - 1."""
    if fill == "reflect":
        last = size - 1.0
        return last - tf.abs(last - _modulo(place, 2 * last))
    return tf.clip_by_value(place, 0.0, size - 1.0)


def _modulo(value: tf.Tensor, period: float) -> tf.Tensor:
    return value - period * tf.floor(value / period)
