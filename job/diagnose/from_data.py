"""Checks of a user's own arrays of images and labels.

images, given = to_pixels(x)            # RGB, 0 to 255, and their reading
labels = read_labels(y, one_hot_loss=False)
check_balance(labels.labels, num_classes=labels.num_classes)
check_pairs(test, train)
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from job import errors
from job.data.dataset import Split
from job.diagnose.finding import Finding, mistake
from job.diagnose.pixels import SCALES, Reading, own_reading
from job.storage import files

_Array = npt.NDArray

# Tolerated ratio of the largest class to the smallest one, and tolerated
# difference in standard deviations of a random draw, because a small random
# sample is never balanced.
_IMBALANCE, _DEVIATIONS = 1.5, 6.0
# Range of the number of images of the linear classifier.
_FEWEST, _MOST = 500, 3200
# Images per class from which all classes are expected among them.
_PER_CLASS = 10
# Height of the images of the linear classifier, and its L2 penalty.
_HEIGHT, _PENALTY = 8, 1.0
# Standard errors above guessing up to which pairs do not fit, and from which
# they do.
_GUESSES, _FITS = 4.0, 8.0


def load_array(path: pathlib.Path, flag: str) -> _Array:
    """Returns the array of a .npy file, which may be hostile.

    Args:
      path: Path of the file.
      flag: Name of the flag for the error.

    Raises:
      DataError: The file is absent or damaged, or contains Python objects.
    """
    try:
        with open(path, "rb", opener=files.open_at_once) as file:
            array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise errors.DataError(
            f"--{flag}={path}: the file does not exist. Fix: correct the path"
        ) from None
    except Exception as error:  # NumPy has no list of its exceptions.
        raise errors.DataError(
            f"--{flag}={path}: the file is not a .npy file of numbers"
            f" ({type(error).__name__}). Fix: write it with"
            f' numpy.save("{flag}.npy", {flag})'
        ) from None
    if not isinstance(array, np.ndarray):
        raise errors.DataError(
            f"--{flag}={path}: the file is an .npz archive. Fix: write one of"
            f' its arrays with numpy.save("{flag}.npy", archive["x"])'
        )
    return array


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


def read_labels(
    y: _Array, *, one_hot_loss: bool | None = None, num_outputs: int = 0
) -> Labels:
    """Reads labels in any usual form and checks them.

    Args:
      y: Labels, integers [n] or [n, 1], or one-hot [n, k].
      one_hot_loss: Whether the loss takes one-hot labels. If None, unknown.
      num_outputs: Number of outputs of the model. If 0, unknown.

    Raises:
      ValueError: The array does not contain labels.
    """
    y = np.asarray(y)
    one_hot = y.ndim == 2 and y.shape[1] > 1
    if y.ndim not in (1, 2) or not len(y) or y.dtype.kind not in "uifb":
        fix = "pass class indices from 0"
        if y.dtype.kind in "USO" and y.ndim == 1:
            fix = "pass numpy.unique(labels, return_inverse=True)[1]"
        raise ValueError(
            f"the labels are {y.dtype} {list(y.shape)}, not integers [n] or"
            f" one-hot [n, classes]. Fix: {fix}"
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
        seen = len(np.unique(labels))
        # A few images need not show all classes.
        is_part = (
            0 <= labels.min() <= labels.max() < num_outputs
            and len(labels) < _PER_CLASS * num_outputs <= _PER_CLASS * 2 * seen
        )
        if labels.min() != 0 and seen > 1 and not is_part:
            wrong.append(f"the labels are {labels.min()} to {labels.max()}")
            fix = f"use labels - {labels.min()}, which begin at 0"
            labels = labels - labels.min()
        if one_hot_loss:
            wrong.append("integers with a loss for one-hot labels")
            fix = "sparse_categorical_crossentropy"
        num_classes = num_outputs if is_part else int(labels.max()) + 1
    found = None
    if wrong:
        found = mistake(
            "labels", f"{'; '.join(wrong)} ({len(y):,} labels)", fix=fix
        )
    return Labels(labels.astype(np.int64), num_classes, found)


def read_pairs(
    x: _Array,
    y: _Array,
    *,
    one_hot_loss: bool | None,
    num_outputs: int = 0,
    kind: str = "",
    most: int | None = None,
) -> tuple[Split, Reading | None, Labels]:
    """Reads images and their labels; see `to_pixels` and `read_labels`.

    Args:
      x: Images, [n, h, w, 3], in any usual scale.
      y: Labels of these images.
      one_hot_loss: Whether the loss takes one-hot labels. If None, unknown.
      num_outputs: Number of outputs of the model. If 0, unknown.
      kind: Word for the images, with a space, for errors.
      most: Size of a random sample of the images. If None, all of them.

    Returns:
      Images, 0 to 255, with their labels; reading of the images; all labels.

    Raises:
      ValueError: The arrays are not images and their labels.
    """
    x = _to_array(x)
    known = read_labels(y, one_hot_loss=one_hot_loss, num_outputs=num_outputs)
    labels = known.labels
    if x.ndim and len(x) and len(x) != len(labels):
        raise ValueError(
            f"{len(x):,} {kind}images, but {len(labels):,} labels. Fix: pass"
            " one label per image"
        )
    if most and x.ndim:
        # A sorted array would begin with the images of one class.
        order = np.random.default_rng(0).permutation(len(labels))[:most]
        x, labels = x[order], labels[order]
    pixels, given = to_pixels(x)
    return Split(pixels, labels), given, known


def _to_array(x: Any) -> _Array:
    if hasattr(x, "as_numpy_iterator"):
        raise ValueError(
            "the images are a tf.data.Dataset. Fix: pass arrays, such as"
            " np.concatenate([x for x, y in dataset]) of a dataset of batches"
        )
    return np.asarray(x)


def read_training(
    train: tuple[_Array, _Array],
    *,
    one_hot_loss: bool | None,
    num_outputs: int,
    size: tuple[int, ...],
) -> tuple[Split, Labels]:
    """Reads a random sample of the training images; see `read_pairs`.

    Args:
      train: Images and labels of the user.
      one_hot_loss: Whether the loss takes one-hot labels. If None, unknown.
      num_outputs: Number of outputs of the model. If 0, unknown.
      size: Height and width of the test images.

    Raises:
      ValueError: These are not images and labels, or of another size.
    """
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise ValueError("train is not a pair. Fix: pass train=(x, y)")
    split, _, known = read_pairs(
        *train,
        one_hot_loss=one_hot_loss,
        num_outputs=num_outputs,
        kind="training ",
        most=_MOST,
    )
    if split.images.shape[1:3] != size:
        raise ValueError(
            f"the training images are {list(split.images.shape)}, but the test"
            f" images have {size[0]} x {size[1]} pixels. Fix: resize one of the"
            " two"
        )
    if known.finding:
        seen = f"training labels: {known.finding.evidence}"
        found = dataclasses.replace(known.finding, evidence=seen)
        known = dataclasses.replace(known, finding=found)
    return split, known


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


@dataclasses.dataclass(frozen=True)
class LinearFit:
    """Accuracy of a linear classifier of the pixels, by cross-validation.

    Attributes:
      accuracy: Accuracy in %.
      images: Number of images.
      errors: Standard errors by which it is above the largest class.
    """

    accuracy: float
    images: int
    errors: float

    @property
    def is_above_guessing(self) -> bool:
        """Returns whether the labels may fit the images."""
        return self.errors > _GUESSES

    def __str__(self) -> str:
        """Returns the accuracy as text, without the kind of the images."""
        return f"{self.accuracy:.1f}% of {self.images:,} images"


def check_pairs(test: Split, train: Split) -> Finding | None:
    """Looks for labels in another order than their images.

    A linear classifier of the pixels needs no learning rate. If it learns only
    one of two sets of equal size, the labels of the other one do not fit.

    Args:
      test: Test images with labels.
      train: Training images with labels.

    Returns:
      Finding, or None if both sets fit, neither does, or they are too small.
    """
    rows = np.arange(min(len(test), len(train)))
    tested = fit_linearly(test.take(rows))
    trained = fit_linearly(train.take(rows))
    if not tested or not trained:
        return None
    low, high = sorted((tested.errors, trained.errors))
    if low > _GUESSES or high < _FITS:
        return None
    return mistake(
        "shuffled_labels",
        f"a linear classifier of the pixels recognizes {trained} for training"
        f" and {tested} for testing, by two-fold cross-validation",
    )


def fit_linearly(split: Split) -> LinearFit | None:
    """Fits ridge regression to one half of the images and tests the other one.

    Args:
      split: Images with labels. At most 3,200 are used.

    Returns:
      Result for both halves, or None for fewer than 500 images or smaller ones
      than 8 x 8 pixels.
    """
    # The classes of neighboring images may depend on each other.
    order = np.random.default_rng(0).permutation(min(len(split), _MOST))
    images, labels = split.images[order], split.labels[order]
    count, height, width = images.shape[:3]
    if count < _FEWEST or min(height, width) < _HEIGHT:
        return None
    rows, columns = height // _HEIGHT, width // _HEIGHT
    images = images[:, : rows * _HEIGHT, : columns * _HEIGHT]
    blocks = images.reshape(count, _HEIGHT, rows, _HEIGHT, columns, 3)
    pixels = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    pixels = (pixels - pixels.mean(axis=0)) / (pixels.std(axis=0) + 1e-6)
    ones = np.ones((count, 1), np.float32)
    features = np.concatenate([pixels, pixels**2 - 1, ones], axis=1)
    targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    hits = 0
    for half in (0, 1):
        x, y = features[half::2], targets[half::2]
        penalty = _PENALTY * len(x) * np.eye(x.shape[1], dtype=np.float32)
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        answers = (features[1 - half :: 2] @ weights).argmax(axis=1)
        hits += int((answers == labels[1 - half :: 2]).sum())
    chance = float(np.bincount(labels).max()) / count
    error = max(1e-6, (chance * (1 - chance) / count) ** 0.5)
    return LinearFit(100 * hits / count, count, (hits / count - chance) / error)
