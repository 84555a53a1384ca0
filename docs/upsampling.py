"""Draws docs/upsampling.png: three kernels, from 32 to 128 px, side by side.

python -m docs.upsampling DIR          # of CIFAR-10
"""

import pathlib
import sys

import tensorflow as tf

from job.data import sources
from job.model import resize as resize_lib
from job.output.plotting import plt

_SIZE = 128
_IMAGES = (12, 13, 26)


def main(data_dir: str) -> None:
    """Draws the picture, of a few test images."""
    images = sources.load("auto", data_dir).test.images[list(_IMAGES)]
    methods = ("nearest", "bilinear", "bicubic")
    columns = [("32 px", images)] + [
        (method, resize_lib.make_resize(_SIZE, method=method)(images).numpy())
        for method in methods
    ]
    figure, axes = plt.subplots(
        len(images), len(columns), figsize=(8, 6), layout="constrained"
    )
    for column, (title, shown) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=10)
        for row in range(len(images)):
            axes[row, column].imshow(
                tf.cast(tf.round(shown[row]), tf.uint8), interpolation="none"
            )
            axes[row, column].axis("off")
    path = pathlib.Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1])
