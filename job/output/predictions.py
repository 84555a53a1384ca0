"""Predicted probabilities of each scored image, stored with the result.

    predict(logits, split, class_names).save(workdir / PREDICTIONS)
    found = load(workdir / PREDICTIONS)      # None if absent or damaged
    found.confusion()                        # int64 [k, k]

They suffice for new figures, without the model and the images. The module does
not import TensorFlow.
"""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from job import errors
from job.data.dataset import IMAGE_SIZE, Split
from job.storage import files, reader

# Number of the most confident mistakes, whose images are stored.
MISTAKES = 25

# Size limit of the file, packed and unpacked. A typical file has 0.5 MB.
_MAX_BYTES = 2**28

# Number of bins of the reliability diagram, as in Guo et al. 2017
# (arXiv:1706.04599).
_BINS = 15


@dataclasses.dataclass(frozen=True)
class Bin:
    """Images whose highest probability is between two bounds.

    Attributes:
      low: Lower bound, exclusive.
      high: Upper bound, inclusive.
      count: Number of images. If 0, the two means are NaN.
      confidence: Mean of the highest probabilities, 0 to 1.
      accuracy: Fraction of correct predictions, 0 to 1.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predicted probabilities of a split's images, in its order.

    Attributes:
      probabilities: Probability of each of k classes, float32 [n, k].
      labels: Labels, int32 [n], 0 to k - 1.
      class_names: Names of the k classes, in the order of the labels.
      mistakes: Indices of the most confident mistakes, the most confident
        first, int64 [m], m at most `MISTAKES`.
      pictures: Images of these mistakes, uint8 [m, 32, 32, 3].
    """

    probabilities: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mistakes: np.ndarray
    pictures: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Returns the most probable class of each image, int64 [n]."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> np.ndarray:
        """Returns the probability of the most probable class, float32 [n]."""
        return self.probabilities.max(1)

    @property
    def accuracy(self) -> float:
        """Returns the fraction of correct predictions, 0 to 1."""
        return float((self.predicted == self.labels).mean())

    def confusion(self) -> np.ndarray:
        """Returns the confusion matrix, int64 [label, prediction]."""
        classes = len(self.class_names)
        table = np.zeros((classes, classes), np.int64)
        np.add.at(table, (self.labels, self.predicted), 1)
        return table

    def calibration(self, bins: int = _BINS) -> list[Bin]:
        """Returns the bins of the reliability diagram.

        Args:
          bins: Number of bins of equal width, from 0 to 1.
        """
        right = self.predicted == self.labels
        confidence = self.confidence.astype(np.float64)
        places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, None)
        return [
            Bin(
                low=place / bins,
                high=(place + 1) / bins,
                count=int(chosen.sum()),
                confidence=float(confidence[chosen].mean())
                if chosen.any()
                else float("nan"),
                accuracy=float(right[chosen].mean())
                if chosen.any()
                else float("nan"),
            )
            for place in range(bins)
            for chosen in [np.minimum(places, bins - 1) == place]
        ]

    def calibration_error(self) -> float:
        """Returns the expected calibration error, 0 to 1.

        It is the mean over images of the difference between a bin's confidence
        and accuracy (Naeini et al. 2015; Guo et al. 2017, equation 3).
        """
        return sum(
            b.count / len(self.labels) * abs(b.confidence - b.accuracy)
            for b in self.calibration()
            if b.count
        )

    def save(self, path: pathlib.Path) -> None:
        """Writes the predictions atomically.

        Raises:
          StorageError: The file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            probabilities=self.probabilities,
            labels=self.labels,
            class_names=np.array(self.class_names),
            mistakes=self.mistakes,
            pictures=self.pictures,
        )
        files.write_atomically(path, buffer.getvalue())


def predict(
    logits: np.ndarray, split: Split, class_names: Sequence[str]
) -> Predictions:
    """Returns the predictions of logits.

    Args:
      logits: Logits, float [n, k], in the order of `split`.
      split: Scored images and their labels.
      class_names: Names of the k classes, in the order of the labels.
    """
    if len(logits) != len(split):
        raise ValueError(
            f"{len(logits)} predictions do not match {len(split)} images"
        )
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    odds = np.exp(shifted)
    probabilities = (odds / odds.sum(1, keepdims=True)).astype(np.float32)
    wrong = np.flatnonzero(probabilities.argmax(1) != split.labels)
    worst_first = np.argsort(-probabilities.max(1)[wrong], kind="stable")
    mistakes = wrong[worst_first[:MISTAKES]]
    return Predictions(
        probabilities,
        split.labels,
        tuple(class_names),
        mistakes,
        split.images[mistakes],
    )


def load(path: pathlib.Path) -> Predictions | None:
    """Returns saved predictions, or None if the file is absent or damaged."""
    return inspect(path).value


def inspect(path: pathlib.Path) -> reader.Reading[Predictions]:
    """Returns saved predictions, and a note if the file is damaged."""
    return reader.inspect(lambda: _read(path))


def _read(path: pathlib.Path) -> Predictions | None:
    content = reader.read_bytes(path, max_bytes=_MAX_BYTES)
    if content is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_BYTES:
            raise ValueError(f"the arrays have {size:,} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Predictions(
                arrays["probabilities"],
                arrays["labels"],
                tuple(
                    str(name) for name in np.atleast_1d(arrays["class_names"])
                ),
                arrays["mistakes"],
                arrays["pictures"],
            )
        _check(found)
    except Exception as error:
        # A damaged zip archive raises exceptions of many types.
        reason = errors.first_line(error, 80)
        raise reader.DamagedError(f"{path} is damaged ({reason})") from None
    return found


def _check(found: Predictions) -> None:
    """Raises ValueError, or an error of NumPy, for inconsistent arrays."""
    classes = len(found.class_names)
    rows, shown = len(found.labels), len(found.mistakes)
    wanted = {
        "probabilities": ("f", (rows, classes)),
        "labels": ("i", (rows,)),
        "mistakes": ("i", (shown,)),
        "pictures": ("u", (shown, IMAGE_SIZE, IMAGE_SIZE, 3)),
    }
    for name, (kind, shape) in wanted.items():
        array = getattr(found, name)
        if array.dtype.kind != kind or array.shape != shape or not rows:
            raise ValueError(
                f"the type of {name} is {array.dtype} {list(array.shape)}"
            )
    if found.pictures.dtype != np.uint8:
        raise ValueError(f"the type of pictures is {found.pictures.dtype}")
    for name, limit in (("labels", classes), ("mistakes", rows)):
        array = getattr(found, name)
        if len(array) and not 0 <= array.min() <= array.max() < limit:
            raise ValueError(f"{name} are not in 0 to {limit - 1}")
    if not (
        0 <= found.probabilities.min() <= found.probabilities.max() <= 1.01
    ):
        raise ValueError("probabilities are not in 0 to 1")
    for name in found.class_names:
        name.encode()  # This fails for a lone surrogate.
