"""Tests of cutout, mixup and CutMix against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from job.augment import mixing

RNG = np.random.default_rng(4)


def random_images(n):
    return RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("pixels", [8, 5])
def test_cutout_covers_one_square_clipped_at_the_border(pixels):
    images = random_images(30)
    center = RNG.integers(0, 32, (30, 2))
    center[0] = (0, 31)
    painted = mixing.cutout(
        tf.constant(images, tf.float32),
        tf.constant(center, tf.float32),
        pixels=pixels,
    ).numpy()
    for image, (row, column), got in zip(images, center, painted, strict=True):
        wanted = image.copy()
        top, left = row - pixels // 2, column - pixels // 2
        wanted[max(0, top) : top + pixels, max(0, left) : left + pixels] = (
            mixing.GRAY
        )
        np.testing.assert_array_equal(got, wanted)


def test_partners_are_positions_i_and_i_xor_1():
    got = mixing.partner(tf.range(10)).numpy()
    np.testing.assert_array_equal(got, np.arange(10) ^ 1)


def black_and_white(n):
    """Returns alternating black and white images."""
    images = np.zeros((n, 32, 32, 3), np.float32)
    images[1::2] = 255
    return tf.constant(images)


def own_share_in_pixels(mixed):
    """Returns the weight of each original image in a mixed one, [n]."""
    white = np.asarray(mixed).mean(axis=(1, 2, 3)) / 255
    white[::2] = 1 - white[::2]
    return white


def test_mixup_weight_equals_that_of_the_pixels():
    drawn = RNG.random((400, 1)).astype(np.float32)
    images, share = mixing.random_mix(
        black_and_white(400),
        mixup_share=tf.constant(drawn),
        cutmix_drawn=None,
        cutmix_probability=0.0,
    )
    np.testing.assert_array_equal(share[::2], drawn[::2, 0])
    np.testing.assert_array_equal(share[::2], share[1::2])
    assert np.abs(own_share_in_pixels(images) - share).max() <= 0.51 / 255


def test_mixup_is_the_weighted_mean():
    images = random_images(6)
    drawn = np.float32([[0.3], [9], [0.0], [9], [1.0], [9]])
    got, _ = mixing.random_mix(
        tf.constant(images, tf.float32),
        mixup_share=tf.constant(drawn),
        cutmix_drawn=None,
        cutmix_probability=0.0,
    )
    own = np.repeat([0.3, 0.0, 1.0], 2)[:, None, None, None]
    wanted = own * images + (1 - own) * images[np.arange(6) ^ 1]
    assert np.abs(got - wanted).max() < 0.501


def test_cutmix_weight_equals_the_area_exactly():
    drawn = RNG.random((2000, 4)).astype(np.float32)
    images, share = mixing.random_mix(
        black_and_white(2000),
        mixup_share=None,
        cutmix_drawn=tf.constant(drawn),
        cutmix_probability=0.5,
    )
    np.testing.assert_allclose(
        own_share_in_pixels(images), share.numpy(), atol=1e-6
    )
    mixed = (share.numpy() < 1).mean()
    assert 0.45 < mixed < 0.55
    np.testing.assert_array_equal(share[::2], share[1::2])


def test_cutmix_boxes_equal_those_of_the_paper():
    """Compares the boxes with the formula of the paper."""
    drawn = RNG.random((300, 3)).astype(np.float32)
    drawn[0] = (0, 0.5, 0.5)
    boxes = mixing.cutmix_box(tf.constant(drawn), 32, 32).numpy()[..., 0]
    for (stays, y, x), box in zip(drawn, boxes, strict=True):
        side = int(32 * np.sqrt(1 - stays))
        wanted = np.zeros((32, 32))
        top, left = int(32 * y) - side // 2, int(32 * x) - side // 2
        wanted[max(0, top) : top + side, max(0, left) : left + side] = 1
        np.testing.assert_array_equal(box, wanted)
    assert boxes[0].all()


def test_cutmix_pastes_pixels_of_the_partner_at_the_same_position():
    images = random_images(2)
    drawn = np.float32([[0, 0.75, 0.25, 0.5]] * 2)
    mixed, share = mixing.random_mix(
        tf.constant(images, tf.float32),
        mixup_share=None,
        cutmix_drawn=tf.constant(drawn),
        cutmix_probability=1.0,
    )
    wanted = images.copy()
    wanted[0, :16, 8:24], wanted[1, :16, 8:24] = (
        images[1, :16, 8:24],
        images[0, :16, 8:24],
    )
    np.testing.assert_array_equal(mixed, wanted)
    np.testing.assert_array_equal(share, [0.75, 0.75])


def test_mixup_mixes_pairs_that_cutmix_does_not():
    drawn = RNG.random((100, 4)).astype(np.float32)
    images, share = mixing.random_mix(
        black_and_white(100),
        mixup_share=tf.fill([100, 1], 0.6),
        cutmix_drawn=tf.constant(drawn),
        cutmix_probability=0.3,
    )
    left = np.repeat(drawn[::2, 0] >= 0.3, 2)
    assert 0 < left.sum() < 100
    np.testing.assert_allclose(share.numpy()[left], 0.6, rtol=1e-6)
    assert set(np.unique(images.numpy()[~left])) == {0, 255}
    np.testing.assert_allclose(
        own_share_in_pixels(images)[~left], share.numpy()[~left], atol=1e-6
    )
