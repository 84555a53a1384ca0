"""Tests of colors against Pillow and the standard library."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter

from job.augment import color

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
FACTORS = RNG.uniform(0, 3, 30).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "pillows"),
    [
        (color.adjust_brightness, ImageEnhance.Brightness),
        (color.adjust_contrast, ImageEnhance.Contrast),
        (color.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_blends_equal_pillow_bit_by_bit(ours, pillows):
    got = ours(tf.constant(IMAGES, tf.float32), tf.constant(FACTORS)).numpy()
    for image, factor, changed in zip(IMAGES, FACTORS, got, strict=True):
        wanted = pillows(Image.fromarray(image)).enhance(float(factor))
        np.testing.assert_array_equal(changed, np.asarray(wanted))


def test_hue_equals_the_standard_library():
    images, turns = IMAGES[:3, :8], np.float32([-0.5, 0.1, 0.37])
    got = color.adjust_hue(
        tf.constant(images, tf.float32), tf.constant(turns)
    ).numpy()
    for image, turn, changed in zip(images, turns, got, strict=True):
        for pixel, new in zip(
            image.reshape(-1, 3), changed.reshape(-1, 3), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255.0))
            wanted = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert np.abs(new - np.array(wanted) * 255).max() < 0.51
    assert (got != images).mean() > 0.5


def test_gray_and_smooth_equal_pillow_bit_by_bit():
    images = tf.constant(IMAGES, tf.float32)
    gray, smooth = color.gray(images).numpy(), color.smooth(images).numpy()
    for i, image in enumerate(map(Image.fromarray, IMAGES)):
        np.testing.assert_array_equal(gray[i, ..., 0], image.convert("L"))
        wanted = np.asarray(image.filter(ImageFilter.SMOOTH))
        np.testing.assert_array_equal(smooth[i], wanted[1:-1, 1:-1])


def test_jitter_applies_its_four_parts_in_order():
    images = tf.constant(IMAGES, tf.float32)
    drawn = RNG.random((30, 4)).astype(np.float32)
    got = color.jitter(
        images,
        tf.constant(drawn),
        brightness=0.4,
        contrast=0.3,
        saturation=2.0,
        hue=0.1,
    )
    wanted = images
    for adjust, low, high, column in (
        (color.adjust_brightness, 0.6, 1.4, 0),
        (color.adjust_contrast, 0.7, 1.3, 1),
        (color.adjust_saturation, 0.0, 3.0, 2),
        (color.adjust_hue, -0.1, 0.1, 3),
    ):
        values = np.float32(low + (high - low) * drawn[:, column])
        wanted = adjust(wanted, tf.constant(values))
    # The factors may be rounded differently.
    assert (np.abs(got - wanted) > 1).mean() < 1e-3
    assert (got != wanted).numpy().mean() < 0.02
