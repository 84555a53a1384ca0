"""Tests of the readings of pixels."""

import numpy as np
import pytest

from job.diagnose import pixels


@pytest.mark.parametrize(
    ("name", "black", "red"),
    [
        ("raw", [0, 0, 0], [255, 0, 0]),
        ("unit", [0, 0, 0], [1, 0, 0]),
        ("symmetric", [-1, -1, -1], [1, -1, -1]),
        (
            "caffe",
            [-103.939, -116.779, -123.68],
            [-103.939, -116.779, 255 - 123.68],
        ),
    ],
)
def test_scale(name, black, red):
    image = np.array([[[[0, 0, 0], [255, 0, 0]]]], np.uint8)
    scaled = pixels.own_reading(name).apply(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[[black, red]]], rtol=1e-6)


def test_layout_is_that_of_a_reshape_without_transpose():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    read = pixels.Reading(layout="reshaped").apply(image)
    assert read[0, 0, 0].tolist() == [0, 3, 6]
    turned = pixels.Reading(layout="transposed").apply(image)
    assert turned[0, 0, 1].tolist() == [6, 7, 8]
