"""Color operations with Pillow's arithmetic, bit for bit where stated.

    adjust_contrast(images, factor)      # ImageEnhance.Contrast

Images are float32 [b, h, w, 3] of integers, 0 to 255, in arguments and results,
as Pillow rounds after every operation.
"""

import tensorflow as tf


def jitter(
    images: tf.Tensor,
    drawn: tf.Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in this order.

    Args:
      images: float32 [b, h, w, 3], integers 0 to 255.
      drawn: float32 [b, 4], uniform over [0, 1).
      brightness: Strength: the factor is uniform over 1 - brightness to 1 +
        brightness, and at least 0. If 0, brightness is not changed.
      contrast: Strength; the same for contrast.
      saturation: Strength; the same for saturation.
      hue: Largest rotation of the hue in either direction, in turns, at most
        0.5. If 0, the hue is not changed.
    """

    def factor(strength: float, column: int) -> tf.Tensor:
        low = max(0.0, 1 - strength)
        return low + (1 + strength - low) * drawn[:, column]

    if brightness:
        images = adjust_brightness(images, factor(brightness, 0))
    if contrast:
        images = adjust_contrast(images, factor(contrast, 1))
    if saturation:
        images = adjust_saturation(images, factor(saturation, 2))
    if hue:
        images = adjust_hue(images, hue * (2 * drawn[:, 3] - 1))
    return images


def adjust_brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with black, `ImageEnhance.Brightness`; factor is float32 [b]."""
    return _whole(images * _each(factor))


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean gray, `ImageEnhance.Contrast`; float32 [b]."""
    mean = _each(mean_grey(grey(images)))
    return _whole(mean + _each(factor) * (images - mean))


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the gray image, `ImageEnhance.Color`; float32 [b]."""
    plain = grey(images)
    return _whole(plain + _each(factor) * (images - plain))


def adjust_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Rotates the hue of HSV.

    Exact up to the last rounding, to the nearest; Pillow's HSV has 8 bits.

    Args:
      images: float32 [b, h, w, 3], integers 0 to 255.
      turns: Rotation, float32 [b]; 1 is the full circle.
    """
    hue, rest = tf.split(tf.image.rgb_to_hsv(images / 255), [1, 2], axis=3)
    hue += _each(turns)
    hsv = tf.concat([hue - tf.floor(hue), rest], axis=3)
    return tf.floor(tf.image.hsv_to_rgb(hsv) * 255 + 0.5)


def grey(images: tf.Tensor) -> tf.Tensor:
    """Returns float32 [b, h, w, 1], Pillow's `convert("L")` (ITU-R 601-2)."""
    # In units of 1 / 65536 and below 2**24, so exact in float32. Not a matrix
    # product, which a GPU may round to TF32.
    red, green, blue = tf.split(images, 3, axis=3)
    total = 19595.0 * red + 38470.0 * green + (7471.0 * blue + 32768.0)
    return tf.floor(total / 65536)


def mean_grey(plain: tf.Tensor) -> tf.Tensor:
    """Returns float32 [b], the mean of gray images, rounded half up."""
    return tf.floor(tf.reduce_mean(plain, axis=[1, 2, 3]) + 0.5)


def smooth(images: tf.Tensor) -> tf.Tensor:
    """Returns `ImageFilter.SMOOTH` without the border, [b, h - 2, w - 2, 3].

    Pillow does not change the border.
    """
    # Sums of slices: under XLA on a CPU, a depthwise convolution takes 20 times
    # as long, and a GPU may round it to TF32.
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    square = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    total = square + 4 * images[:, 1:-1, 1:-1]
    return tf.floor(total / 13 + 0.5)


def _each(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, 1, 1, 1])


def _whole(images: tf.Tensor) -> tf.Tensor:
    """Clips, then rounds down: so does Pillow's `Image.blend`."""
    return tf.floor(tf.clip_by_value(images, 0.0, 255.0))
