"""Figure of augmented images, which shows whether augmentation is too strong.

    picture.write(workdir / AUGMENTATION, images, operations, seed=0)

The first row has eight original images, and each row below has other random
augmentations of them. If images are mixed, columns 1 and 2 are partners, as are
3 and 4, and so on.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job.augment.make import make_augment
from job.augment.operations import Operation
from job.data.pipeline import TrainBatch
from job.storage import files

_COLUMNS = 8
_ROWS = 3
_SCALE = 3
# Width of the white border of an image, in pixels.
_GAP = 1

_Images = npt.NDArray[np.uint8]


def write(
    path: pathlib.Path,
    images: _Images,
    operations: Sequence[Operation],
    *,
    seed: int,
) -> None:
    """Writes the figure atomically, unless it exists.

    Args:
      path: Path of the PNG.
      images: Training images, uint8 [n, h, w, 3], of which 8 are shown.
      operations: Operations in order.
      seed: Seed of the run.
    """
    if path.exists():
        return
    images = images[np.arange(_COLUMNS) % len(images)]
    rows = np.stack([images, *_augmented(images, operations, seed)])
    files.write_atomically(path, tf.io.encode_png(_montage(rows)).numpy())


def _augmented(
    images: _Images, operations: Sequence[Operation], seed: int
) -> _Images:
    """Returns the images of all rows, uint8 [rows, 8, h, w, 3]."""
    count = _COLUMNS * _ROWS
    augment = make_augment(
        operations,
        seed=seed,
        num_images=_COLUMNS,
        global_batch_size=count,
        num_replicas=1,
    )
    # All rows are one batch, because each position has draws of its own. A
    # compilation would take longer than a few hundred small operations.
    with tf.device("CPU:0"):
        row, column = np.divmod(np.arange(count, dtype=np.int32), _COLUMNS)
        batch = TrainBatch(
            image=tf.constant(images[column]),
            label=tf.constant(column),
            index=tf.constant(column),
            epoch=tf.constant(row),
        )
        shown = augment(batch, tf.constant(0, tf.int64), tf.constant(0))
        return shown.image.numpy().reshape(_ROWS, *images.shape)


def _montage(rows: _Images) -> _Images:
    """Lays out uint8 [rows, columns, h, w, 3] as one image, enlarged."""
    large = rows.repeat(_SCALE, axis=2).repeat(_SCALE, axis=3)
    gap = (_GAP, _GAP)
    tiles = np.pad(
        large, ((0, 0), (0, 0), gap, gap, (0, 0)), constant_values=255
    )
    count, columns, height, width, channels = tiles.shape
    return tiles.swapaxes(1, 2).reshape(
        count * height, columns * width, channels
    )
