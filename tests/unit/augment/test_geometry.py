"""Tests of flips, shifts and warps against NumPy, SciPy and Keras."""

import math

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from keras.src.legacy.preprocessing import image as keras_image

from job.augment import geometry

RNG = np.random.default_rng(1)
PAD = {"reflect": "reflect", "nearest": "edge", "zero": "constant"}
# SciPy's images also fade to black at the border.
SCIPY = {"reflect": "mirror", "nearest": "nearest", "zero": "grid-constant"}


def random_images(n):
    return RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("fill", PAD)
def test_flip_and_translate_equal_padding_and_cropping(fill):
    images, most = random_images(40), 5
    mirrored = RNG.integers(0, 2, 40).astype(bool)
    shift = RNG.integers(-most, most + 1, (40, 2))
    moved = geometry.flip_and_translate(
        tf.constant(images, tf.float32),
        tf.constant(mirrored),
        tf.constant(shift, tf.float32),
        fill=fill,
    ).numpy()
    for image, flip, (down, right), got in zip(
        images, mirrored, shift, moved, strict=True
    ):
        plain = image[:, ::-1] if flip else image
        padded = np.pad(plain, ((most, most), (most, most), (0, 0)), PAD[fill])
        top, left = most - down, most - right
        np.testing.assert_array_equal(
            got, padded[top : top + 32, left : left + 32]
        )


def test_alternating_flips_each_image_in_every_other_epoch():
    index = np.arange(1000, dtype=np.int32)

    def flips(epoch):
        return geometry.alternating_flip(
            tf.constant(index),
            tf.fill([1000], epoch),
            seed=0,
            purpose=0,
            num_images=1000,
        ).numpy()

    np.testing.assert_array_equal(flips(0), ~flips(1))
    np.testing.assert_array_equal(flips(0), flips(2))
    assert 450 < flips(0).sum() < 550


def random_matrices(n):
    """Returns strong affine maps, float32 [n, 2, 3]."""
    matrices = np.eye(2, 3) + RNG.normal(0, 0.4, (n, 2, 3))
    matrices[:, :, 2] += RNG.normal(0, 8, (n, 2))
    return matrices.astype(np.float32)


def scipy_warp(image, matrix, **kwargs):
    channels = [
        scipy.ndimage.affine_transform(
            image[..., c].astype(np.float64),
            matrix[:, :2].astype(np.float64),
            matrix[:, 2].astype(np.float64),
            **kwargs,
        )
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("fill", SCIPY)
def test_bilinear_warp_equals_scipy(fill):
    images, matrices = random_images(40), random_matrices(40)
    got = geometry.warp_bilinear(
        tf.constant(images, tf.float32), tf.constant(matrices), fill=fill
    ).numpy()
    np.testing.assert_array_equal(got, np.round(got))
    for image, matrix, warped in zip(images, matrices, got, strict=True):
        wanted = scipy_warp(image, matrix, order=1, mode=SCIPY[fill])
        # Errors of float32 coordinates are multiplied by up to 255.
        assert np.abs(warped - wanted).max() < 0.51
    assert got.max() <= 255


@pytest.mark.parametrize("fill", SCIPY)
def test_two_nearest_warps_equal_scipy(fill):
    images = random_images(40)
    first, second = random_matrices(40), random_matrices(40)
    got = geometry.warp_nearest(
        tf.constant(images, tf.float32),
        [tf.constant(first), tf.constant(second)],
        fill=fill,
    ).numpy()
    wanted = [
        scipy_warp(
            scipy_warp(i, a, order=0, mode=SCIPY[fill]),
            b,
            order=0,
            mode=SCIPY[fill],
        )
        for i, a, b in zip(images, first, second, strict=True)
    ]
    apart = (got != np.stack(wanted)).any(axis=-1).mean()
    assert apart < 2e-3  # Halves may be rounded differently.


def test_the_affine_map_is_composed_as_keras_composes_it():
    images = random_images(30)
    drawn = RNG.random((30, 6)).astype(np.float32)
    matrices = geometry.random_affine(
        tf.constant(drawn),
        rotation_degrees=40.0,
        shift=0.2,
        shear=25.0,
        zoom=0.3,
        height=32,
        width=32,
    )
    got = geometry.warp_bilinear(
        tf.constant(images, tf.float32), matrices, fill="nearest"
    ).numpy()
    for image, numbers, warped in zip(images, drawn, got, strict=True):
        theta, down, right, shear, zoom_y, zoom_x = 2 * numbers - 1
        wanted = keras_image.apply_affine_transform(
            image.astype(np.float64),
            theta=40 * theta,
            tx=32 * 0.2 * right,
            ty=32 * 0.2 * down,
            shear=25 * shear,
            zx=1 + 0.3 * zoom_x,
            zy=1 + 0.3 * zoom_y,
            row_axis=0,
            col_axis=1,
            channel_axis=2,
            fill_mode="nearest",
        )
        assert np.abs(warped - wanted).max() < 0.51


@pytest.mark.parametrize("off", ["rotation_degrees", "shift", "shear", "zoom"])
def test_zero_strength_leaves_its_part_neutral(off):
    strengths = dict.fromkeys(["rotation_degrees", "shift", "shear", "zoom"], 0)
    drawn = tf.constant(RNG.random((5, 6)), tf.float32)
    identity = np.broadcast_to(np.eye(2, 3), (5, 2, 3))
    still = geometry.random_affine(drawn, **strengths, height=32, width=32)
    np.testing.assert_allclose(still, identity, atol=1e-5)
    strengths[off] = 0.5
    moved = geometry.random_affine(drawn, **strengths, height=32, width=32)
    parts = {
        "rotation_degrees": [(0, 1), (1, 0)],
        "shift": [(0, 2), (1, 2)],
        "shear": [(1, 0)],
        "zoom": [(0, 0), (1, 1)],
    }
    for place in parts[off]:
        assert (np.abs(moved - identity)[:, *place] > 1e-5).all()
    assert math.isclose(float(moved[0, 0, 1]), 0.0) == (
        off != "rotation_degrees"
    )
