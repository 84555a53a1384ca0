"""Tests of resizing against TensorFlow and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from job.model import resize as resize_lib


@pytest.mark.parametrize("size", [16, 24, 40, 64, 96, 224])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_pixels_are_those_of_tensorflow_and_pillow(split, method, size):
    images = split.images[:2]
    ours = resize_lib.make_resize(size, method=method)(images).numpy()
    assert ours.shape == (2, size, size, 3)
    theirs = tf.image.resize(
        images, (size, size), method=method, antialias=True
    ).numpy()
    # TensorFlow looks its bicubic weights up in a table of 1,024 entries.
    np.testing.assert_allclose(ours, np.clip(theirs, 0, 255), atol=0.5)
    if method == "nearest" and size in (24, 40):
        return  # Pillow's running sum rounds exact ties differently.
    sampling = getattr(Image.Resampling, method.upper())
    for image, resized in zip(images, ours, strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[..., channel].astype(np.float32))
            wanted = np.asarray(plane.resize((size, size), sampling))
            np.testing.assert_allclose(
                resized[..., channel], np.clip(wanted, 0, 255), atol=1e-2
            )


def test_images_of_32_px_are_unchanged(split):
    images = tf.constant(split.images)
    assert resize_lib.make_resize(32, method="bicubic")(images) is images


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="unknown method 'lanczos'"):
        resize_lib.make_resize(64, method="lanczos")
