"""Scales of pixels."""

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
    scaled = pixels.scale(image, name)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[[black, red]]], rtol=1e-6)
