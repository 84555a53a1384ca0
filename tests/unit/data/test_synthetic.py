"""Synthetic images: equal for a seed, with balanced classes."""

import numpy as np

from job.data import synthetic


def test_drawing_is_a_pure_function_of_its_arguments():
    first, again = synthetic.draw(200, 50, 3), synthetic.draw(200, 50, 3)
    other = synthetic.draw(200, 50, 4)
    assert first.checksum() == again.checksum()
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert first.checksum() != other.checksum()


def test_shapes_types_and_class_balance():
    drawn = synthetic.draw(200, 50, 0)
    assert drawn.train.images.shape == (200, 32, 32, 3)
    assert drawn.train.images.dtype == np.uint8
    assert drawn.train.labels.dtype == np.int32
    assert np.bincount(drawn.train.labels).tolist() == [20] * 10
    assert np.bincount(drawn.test.labels).tolist() == [5] * 10
    assert drawn.train.images.std() > 30


def test_color_and_brightness_do_not_predict_the_class():
    drawn = synthetic.draw(4000, 10, 0)
    means = drawn.train.images.mean((1, 2))
    labels = drawn.train.labels
    centers = np.stack([means[labels == c].mean(0) for c in range(10)])
    distance = ((means[:, None] - centers) ** 2).sum(-1)
    assert (distance.argmin(1) == labels).mean() < 0.2
