"""Tests of the figure of augmented images."""

import numpy as np
import tensorflow as tf

from configs import augment_presets
from job import augment
from job.augment import picture
from job.storage.workdir import AUGMENTATION


def test_the_picture_shows_images_as_they_are_and_as_they_become(
    split, tmp_path
):
    path = tmp_path / AUGMENTATION
    operations = augment.create_operations(augment_presets.fields("strong"))
    picture.write(path, split.images, operations, seed=0)
    content = path.read_bytes()
    shown = tf.io.decode_png(content).numpy()
    assert shown.shape == (4 * 98, 8 * 98, 3)
    tiles = shown.reshape(4, 98, 8, 98, 3).swapaxes(1, 2)[:, :, 1:-1, 1:-1]
    small = tiles[:, :, ::3, ::3]
    np.testing.assert_array_equal(small[0], split.images[:8])
    for row in range(1, 4):
        changed = (small[row] != small[row - 1]).any(axis=(1, 2, 3))
        assert changed.mean() > 0.7
    picture.write(path, split.images[8:], operations, seed=1)
    assert path.read_bytes() == content  # The first attempt wrote the file.
