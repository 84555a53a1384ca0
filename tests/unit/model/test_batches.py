"""Tests of batches, with every image once and in order."""

import numpy as np
import pytest
import tensorflow as tf

from job.model import batches


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
def test_every_image_is_computed_once_in_order(split, batch_size):
    images, calls, polls = split.images[:7], [], []

    def brightness(batch):
        calls.append(batch.shape)
        return tf.reduce_mean(tf.cast(batch, tf.float32), axis=[1, 2])

    found = batches.predict_in_batches(
        brightness,
        images,
        batch_size=batch_size,
        poll=lambda: polls.append(1),
    )
    np.testing.assert_allclose(found, images.mean((1, 2)), rtol=1e-5)
    assert calls == [(batch_size, 32, 32, 3)], "it is compiled once"
    assert len(polls) == -(-7 // batch_size)


@pytest.mark.parametrize(
    ("size", "at_least", "wanted"),
    [(32, 1, 500), (64, 1, 125), (512, 1, 1), (512, 8, 8)],
)
def test_larger_images_have_smaller_batches(size, at_least, wanted):
    found = batches.batch_size_for(size, 500, at_least=at_least)
    assert found == wanted
    assert batches.batch_size_for(1024, 500) == 1
