"""Augmentation against plain NumPy, and the same on any number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

from job import augment
from job.data import pipeline

RNG = np.random.default_rng(1)
MODES = {"reflect": "reflect", "nearest": "edge", "zero": "constant"}


def random_images(n):
    return RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("fill", MODES)
def test_flip_and_translate_equal_padding_and_cropping(fill):
    images, most = random_images(40), 5
    mirrored = RNG.integers(0, 2, 40).astype(bool)
    shift = RNG.integers(-most, most + 1, (40, 2)).astype(np.int32)
    moved = augment.flip_and_translate(
        tf.constant(images),
        tf.constant(mirrored),
        tf.constant(shift),
        fill=fill,
    ).numpy()
    for image, flip, (down, right), got in zip(
        images, mirrored, shift, moved, strict=True
    ):
        plain = image[:, ::-1] if flip else image
        padded = np.pad(
            plain, ((most, most), (most, most), (0, 0)), MODES[fill]
        )
        top, left = most - down, most - right
        np.testing.assert_array_equal(
            got, padded[top : top + 32, left : left + 32]
        )


def test_cutout_paints_one_square_clipped_at_the_border():
    images = random_images(30)
    centre = RNG.integers(0, 32, (30, 2)).astype(np.int32)
    centre[0] = (0, 31)
    painted = augment.cutout(
        tf.constant(images), tf.constant(centre), pixels=8
    ).numpy()
    for image, (row, column), got in zip(images, centre, painted, strict=True):
        wanted = image.copy()
        top, left = row - 4, column - 4
        wanted[max(0, top) : top + 8, max(0, left) : left + 8] = (125, 123, 114)
        np.testing.assert_array_equal(got, wanted)


def test_the_alternating_flip_mirrors_each_image_every_other_epoch():
    index = np.arange(1000, dtype=np.int32)

    def flips(epoch):
        return augment.alternating_flip(
            tf.constant(index),
            tf.fill([1000], epoch),
            seed=0,
            num_images=1000,
        ).numpy()

    np.testing.assert_array_equal(flips(0), ~flips(1))
    np.testing.assert_array_equal(flips(0), flips(2))
    assert 450 < flips(0).sum() < 550


def make(replicas=1, batch=30, **changes):
    settings = {
        "flip": "random",
        "translate": 4,
        "fill": "reflect",
        "cutout_pixels": 8,
        "seed": 0,
        "num_images": 100,
        "global_batch_size": batch,
        "num_replicas": replicas,
    }
    return tf.function(augment.make_augment(**{**settings, **changes}))


def augmented(split, step, replicas=1, batch=30, **changes):
    """Returns the augmented global batch of a step."""
    parts = pipeline.train_batches(
        split,
        seed=0,
        global_batch_size=batch,
        first_step=step,
        num_replicas=replicas,
    ).take(replicas)
    call = make(replicas, batch, **changes)
    step = tf.constant(step, tf.int64)
    return np.concatenate(
        [call(p, step, tf.constant(r)).numpy() for r, p in enumerate(parts)]
    )


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_global_batches_are_the_same_on_1_2_and_3_replicas(split, flip):
    whole = augmented(split, 5, flip=flip)
    for replicas in (2, 3):
        np.testing.assert_array_equal(
            whole, augmented(split, 5, replicas, flip=flip)
        )


def test_steps_and_seeds_differ_and_repeat(split):
    np.testing.assert_array_equal(augmented(split, 3), augmented(split, 3))
    batch = next(
        iter(
            pipeline.train_batches(
                split, seed=0, global_batch_size=30, first_step=0
            )
        )
    )
    outcomes = [
        make(seed=seed)(batch, tf.constant(step, tf.int64), tf.constant(0))
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({o.numpy().tobytes() for o in outcomes}) == 3


def test_replicas_do_not_draw_the_same(split):
    """The defect of Keras' SeedGenerator under MirroredStrategy."""
    batch = next(
        iter(
            pipeline.train_batches(
                split, seed=0, global_batch_size=15, first_step=0
            )
        )
    )
    call = make(replicas=2)
    step = tf.constant(0, tf.int64)
    one, two = (call(batch, step, tf.constant(r)).numpy() for r in (0, 1))
    assert (one != two).any(axis=(1, 2, 3)).mean() > 0.5


def test_all_off_changes_nothing(split):
    plain = augmented(split, 0, flip="none", translate=0, cutout_pixels=0)
    (batch,) = pipeline.train_batches(
        split, seed=0, global_batch_size=30, first_step=0
    ).take(1)
    np.testing.assert_array_equal(plain, batch.image.numpy())
