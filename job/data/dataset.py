"""Images and labels in memory, the result of every source.

Split    images and labels
Dataset  training and test split with their source and class names
"""

import dataclasses

import google_crc32c
import numpy as np

from job import errors

IMAGE_SIZE = 32
# Statistics of CIFAR-10's training images, red, green and blue, 0 to 255.
PIXEL_MEAN = (125.307, 122.950, 113.865)
PIXEL_STD = (62.993, 62.089, 66.705)
# CIFAR-10's classes, as its file formats number them. Other code takes the
# classes from `Dataset.class_names`.
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclasses.dataclass(frozen=True)
class Split:
    """Labeled images.

    Attributes:
      images: Images, uint8 [n, 32, 32, 3], RGB, 0 to 255, C-contiguous.
      labels: Labels, int32 [n], 0 to the number of classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Split":
        """Returns the images at `rows`, int [m], in that order."""
        return Split(self.images[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Data set in memory.

    Attributes:
      train: Training split.
      test: Evaluated split, the test images or held-out training images.
      source: Name of the source, tfds, binary, python, synthetic or any name
        for other images.
      class_names: Names of the classes, in the order of the labels.

    Raises:
      DataError: The images or labels of a split have another type, shape or
        range than `Split` requires.
    """

    train: Split
    test: Split
    source: str
    class_names: tuple[str, ...] = CLASS_NAMES

    def __post_init__(self) -> None:
        _check(self.train, f"{self.source}: the training", self.num_classes)
        _check(self.test, f"{self.source}: the test", self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def checksum(self) -> str:
        """Returns the crc32c, 8 hexadecimal digits, of the training split.

        Equal images and labels in equal order have equal checksums, from any
        source.
        """
        crc = 0
        for start in range(0, len(self.train), 10_000):
            rows = self.train.images[start : start + 10_000]
            crc = google_crc32c.extend(crc, rows.tobytes())
        labels = self.train.labels.astype("<i4").tobytes()
        return f"{google_crc32c.extend(crc, labels):08x}"


def _check(split: Split, name: str, num_classes: int) -> None:
    """Raises DataError for arrays that `Split` does not allow.

    Args:
      split: Images and labels.
      name: Name of the source and the split, for the error.
      num_classes: Number of classes.
    """
    images, labels = split.images, split.labels
    shape = (len(labels), IMAGE_SIZE, IMAGE_SIZE, 3)
    for what, array, dtype, wanted in (
        ("labels", labels, "int32", shape[:1]),
        ("images", images, "uint8", shape),
    ):
        if array.dtype != dtype or array.shape != wanted or not len(array):
            raise errors.DataError(
                f"data set {name} {what} must be {dtype} {list(wanted)}: found"
                f" {array.dtype} {list(array.shape)}. Fix: convert the array"
            )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise errors.DataError(
            f"data set {name} labels must be 0 to {num_classes - 1}: found"
            f" {labels.min()} to {labels.max()}. Fix: number the classes from"
            " 0, or complete class_names"
        )


def limit(split: Split, images: int) -> Split:
    """Returns a fixed random subset of a split, in the order of the split.

    Args:
      split: Images to choose from.
      images: Number of images. If 0 or above the split's size, all are kept.
    """
    if not 0 < images < len(split):
        return split
    drawn = np.random.RandomState(1).permutation(len(split))[:images]
    return split.take(np.sort(drawn))


def hold_out(dataset: Dataset, fraction: float, fold: int = 0) -> Dataset:
    """Returns a data set whose test split is held-out training images.

    Tuning needs it, because settings that were chosen by the test images report
    too high an accuracy. The held-out images are the same for every seed, so
    that runs can be compared.

    Args:
      dataset: Data set as it was loaded.
      fraction: Fraction of the training images to hold out, at least 0 and
        below 1. If 0.0, returns `dataset`.
      fold: Number of the slice of a fixed order to hold out, at least 0 and
        below 1 / fraction. Up to rounding, slices do not overlap.
    """
    if not fraction:
        return dataset
    order = np.random.RandomState(0).permutation(len(dataset.train))
    held = min(max(1, round(fraction * len(order))), len(order) - 1)
    order = np.roll(order, -fold * held)
    return dataclasses.replace(
        dataset,
        train=dataset.train.take(np.sort(order[held:])),
        test=dataset.train.take(np.sort(order[:held])),
    )
