"""Checks of a user's own arrays of images and labels.

images, given = to_pixels(x)            # RGB, 0 to 255, and their reading
labels = read_labels(y, one_hot_loss=False)
check_balance(labels.labels, num_classes=labels.num_classes)
"""

import dataclasses
import pathlib

import numpy as np
import numpy.typing as npt

from job import errors
from job.diagnose.finding import Finding, mistake
from job.diagnose.pixels import SCALES, Reading, own_reading

_Array = npt.NDArray

# Tolerated ratio of the largest class to the smallest one, and tolerated
# difference in standard deviations of a random draw, because a small random
# sample is never balanced.
_IMBALANCE, _DEVIATIONS = 1.5, 6.0


def load_array(path: pathlib.Path, flag: str) -> _Array:
    """Returns the array of a .npy file, which may be hostile.

    Args:
      path: Path of the file.
      flag: Name of the flag for the error.

    Raises:
      DataError: The file is absent or damaged, or contains Python objects.
    """
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise errors.DataError(
            f"--{flag}={path}: the file is not a .npy file of numbers"
            f" ({type(error).__name__}). Fix: write it with"
            f' numpy.save("{flag}.npy", {flag})'
        ) from None


def to_pixels(x: _Array) -> tuple[_Array, Reading | None]:
    """Returns images as RGB from 0 to 255, and their original reading.

    Args:
      x: Images, [n, h, w, 3], in any usual scale.

    Returns:
      Images, float32 or uint8 [n, h, w, 3], and their reading. If the scale is
      not one of `pixels.SCALES`, the images are unchanged and the reading is
      None.

    Raises:
      ValueError: The array does not contain images.
    """
    x = np.asarray(x)
    if (
        x.ndim != 4
        or x.shape[-1] != 3
        or not len(x)
        or x.dtype.kind not in "uif"
    ):
        raise ValueError(
            f"the images are {x.dtype} {list(x.shape)}, not numbers [n, height,"
            " width, 3]. Fix: pass RGB images"
        )
    if not np.all(np.isfinite(x)):
        raise ValueError(
            "the images contain NaN or infinity. Fix: remove these images"
        )
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high > 2:
        return x, Reading("raw")
    if low >= 0 and high <= 1:
        # After two divisions by 255 the largest value is 1/255.
        scale = "twice" if high <= 0.01 else "unit"
    elif low >= -1 and high <= 1:
        scale = "symmetric"
    elif low < -60:
        scale = "caffe"
    elif low > -3 and high < 3:
        scale = "standardize"
    else:
        return x, None
    given = own_reading(scale)
    _, mean, divisor = SCALES[scale]
    rgb = x[..., ::-1] if given.bgr else x
    return rgb * np.asarray(divisor, np.float32) + np.asarray(
        mean, np.float32
    ), given


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels as class indices.

    Attributes:
      labels: Class of each image, int [n], from 0.
      num_classes: Number of classes.
      finding: Mistake in the original labels, or None.
    """

    labels: _Array
    num_classes: int
    finding: Finding | None


def read_labels(y: _Array, *, one_hot_loss: bool | None = None) -> Labels:
    """Reads labels in any usual form and checks them.

    Args:
      y: Labels, integers [n] or [n, 1], or one-hot [n, k].
      one_hot_loss: Whether the loss takes one-hot labels. If None, unknown.

    Raises:
      ValueError: The array does not contain labels.
    """
    y = np.asarray(y)
    one_hot = y.ndim == 2 and y.shape[1] > 1
    if y.ndim not in (1, 2) or not len(y) or y.dtype.kind not in "uifb":
        raise ValueError(
            f"the labels are {y.dtype} {list(y.shape)}, not integers [n] or"
            " one-hot [n, classes]. Fix: pass class indices from 0"
        )
    wrong, fix = [], ""
    if one_hot:
        num_classes = y.shape[1]
        labels = y.argmax(axis=1)
        if not np.allclose(y.sum(axis=1), 1):
            wrong.append("rows of the one-hot labels do not sum to 1")
            fix = "use keras.utils.to_categorical(labels, 10)"
        if one_hot_loss is False:
            wrong.append("one-hot labels with a sparse loss")
            fix = "use labels.argmax(axis=1) or categorical_crossentropy"
    else:
        flat = y.reshape(-1)
        labels = np.rint(np.nan_to_num(flat)).astype(np.int64)
        if not np.array_equal(labels, flat):
            wrong.append("the labels are not integers")
            fix = "use class indices from 0"
        if labels.min() != 0 and len(np.unique(labels)) > 1:
            wrong.append(f"the labels are {labels.min()} to {labels.max()}")
            fix = f"use labels - {labels.min()}, which begin at 0"
            labels = labels - labels.min()
        if one_hot_loss:
            wrong.append("integers with a loss for one-hot labels")
            fix = "sparse_categorical_crossentropy"
        num_classes = int(labels.max()) + 1
    found = None
    if wrong:
        found = mistake(
            "labels", f"{'; '.join(wrong)} ({len(y):,} labels)", fix=fix
        )
    return Labels(labels.astype(np.int64), num_classes, found)


def check_balance(labels: _Array, *, num_classes: int) -> Finding | None:
    """Looks for classes with many more images than others.

    Args:
      labels: Labels, int [n], 0 to num_classes - 1.
      num_classes: Number of classes.
    """
    counts = np.bincount(labels, minlength=num_classes)
    fewest, most = int(counts.min()), int(counts.max())
    chance = _DEVIATIONS * (len(labels) / num_classes) ** 0.5
    if most <= _IMBALANCE * fewest or most - fewest <= chance:
        return None
    return mistake(
        "balance",
        f"class {counts.argmax()} has {most:,} images, class"
        f" {counts.argmin()} has {fewest:,}",
    )
