"""Color operations with Pillow's arithmetic.

    adjust_contrast(images, factor)      # ImageEnhance.Contrast

Arguments and results are float32 images [b, h, w, 3] with integer values, 0 to
255, because Pillow rounds after every operation.
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
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      drawn: Random numbers, float32 [b, 4], uniform over [0, 1).
      brightness: Strength. The factor is uniform over 1 - brightness to 1 +
        brightness, and at least 0. If 0, the brightness is not changed.
      contrast: Strength for the contrast, as for the brightness.
      saturation: Strength for the saturation, as for the brightness.
      hue: Largest rotation of the hue in either direction, in full circles, at
        most 0.5. If 0, the hue is not changed.
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
    """Blends with black by a factor, float32 [b], as `ImageEnhance.Brightness`.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      factor: Weight of the image, float32 [b].
    """
    return _whole(images * _each(factor))


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean gray by a factor, as `ImageEnhance.Contrast`.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      factor: Weight of the image, float32 [b].
    """
    mean = _each(mean_gray(gray(images)))
    return _whole(mean + _each(factor) * (images - mean))


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the gray image by a factor, as `ImageEnhance.Color`.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      factor: Weight of the image, float32 [b].
    """
    plain = gray(images)
    return _whole(plain + _each(factor) * (images - plain))


def adjust_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Rotates the hue in HSV.

    The result is exact up to a final rounding. Pillow's HSV has only 8 bits.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.
      turns: Rotation in full circles, float32 [b].
    """
    hue, rest = tf.split(tf.image.rgb_to_hsv(images / 255), [1, 2], axis=3)
    hue += _each(turns)
    hsv = tf.concat([hue - tf.floor(hue), rest], axis=3)
    return tf.floor(tf.image.hsv_to_rgb(hsv) * 255 + 0.5)


def gray(images: tf.Tensor) -> tf.Tensor:
    """Returns gray images by ITU-R 601-2, as Pillow's `convert("L")` does.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.

    Returns:
      Gray images, float32 [b, h, w, 1], integers 0 to 255.
    """
    # The sum is below 2**24 in units of 1 / 65536, so it is exact in float32. A
    # GPU may round a matrix product to TF32.
    red, green, blue = tf.split(images, 3, axis=3)
    total = 19595.0 * red + 38470.0 * green + (7471.0 * blue + 32768.0)
    return tf.floor(total / 65536)


def mean_gray(plain: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each gray image, rounded half up, float32 [b]."""
    return tf.floor(tf.reduce_mean(plain, axis=[1, 2, 3]) + 0.5)


def smooth(images: tf.Tensor) -> tf.Tensor:
    """Smooths the interior of images, as `ImageFilter.SMOOTH` does.

    Pillow does not change the border.

    Args:
      images: Images, float32 [b, h, w, 3], integers 0 to 255.

    Returns:
      Images without their border, float32 [b, h - 2, w - 2, 3].
    """
    # Slices are added, because under XLA on a CPU a depthwise convolution takes
    # 20 times as long, and a GPU may round it to TF32.
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    square = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    total = square + 4 * images[:, 1:-1, 1:-1]
    return tf.floor(total / 13 + 0.5)


def _each(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, 1, 1, 1])


def _whole(images: tf.Tensor) -> tf.Tensor:
    """Clips and then rounds down, as Pillow's `Image.blend` does."""
    return tf.floor(tf.clip_by_value(images, 0.0, 255.0))
