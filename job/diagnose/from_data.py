"""Checks of images and labels, in memory; whose data set it is is all the same.

check_labels(labels)
check_copies(train, test)
check_shuffling(labels_by_batch, all_labels=labels)
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from job.data.dataset import Split
from job.diagnose import costs
from job.diagnose.finding import Cost, Finding
from job.model.vgg import PREPROCESSING

_Array = npt.NDArray

# A class may have so much more than another, and by so many deviations of a
# random draw; few images are never of one size.
_IMBALANCE, _DEVIATIONS = 1.5, 6.0
# Shares of images beyond which copies, of one another, in the test images and
# under two labels, are more than the few that CIFAR-10 has.
_COPIES, _LEAKED, _CONFLICTING = 0.01, 0.005, 0.001
# Share of the entropy of a shuffled batch, below which a batch is not one.
_ENTROPY_SHARE = 0.9


def check_labels(labels: _Array, *, num_classes: int = 10) -> Finding | None:
    """Looks at the labels' shape, type and range.

    A column of labels, [n, 1], broadcasts against [n] predictions to [n, n],
    with no error; labels from 1 lose a class, and a loss on GPUs is NaN there.

    Args:
      labels: as they are given to the loss; int [n] is right.
      num_classes: of the network.
    """
    wrong = []
    labels = np.asarray(labels)
    if labels.ndim != 1:
        wrong.append(f"shape {list(labels.shape)}, not [{len(labels)}]")
    if not np.issubdtype(labels.dtype, np.integer):
        wrong.append(f"type {labels.dtype}, not whole numbers")
    low, high = labels.min(initial=0), labels.max(initial=0)
    if labels.size:
        low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        wrong.append(f"{low:g} to {high:g}, not 0 to {num_classes - 1}")
    elif labels.ndim == 1 and labels.size and low > 0:
        wrong.append(f"none is 0: they go from {low:g} to {high:g}")
    if not wrong:
        return None
    return Finding(
        "labels",
        "the labels are not what the loss takes",
        "; ".join(wrong),
        costs.LABELS,
        (f"int [n], 0 to {num_classes - 1}: labels.reshape(-1), from 0 on",),
    )


def check_balance(labels: _Array, *, num_classes: int = 10) -> Finding | None:
    """Looks for classes with many more images than others.

    Args:
      labels: int [n], 0 to num_classes - 1.
      num_classes: how many there are.
    """
    counts = np.bincount(labels, minlength=num_classes)
    fewest, most = int(counts.min()), int(counts.max())
    chance = _DEVIATIONS * (len(labels) / num_classes) ** 0.5
    if most <= _IMBALANCE * fewest or most - fewest <= chance:
        return None
    return Finding(
        "balance",
        "classes are not of one size",
        f"class {counts.argmax()} has {most:,} images, class"
        f" {counts.argmin()} has {fewest:,}; CIFAR-10 has as many of each",
        costs.IMBALANCE,
        ("compare the labels with the official files, or fetch those again",),
    )


def fingerprints(images: _Array) -> _Array:
    """Returns uint64 [n]: equal images, byte by byte, have equal numbers.

    Args:
      images: any type, [n, ...].
    """
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    digests = [
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def check_copies(train: Split, test: Split) -> Finding | None:
    """Looks for exact copies: in train, under two labels, of test images.

    Args:
      train: what is trained on.
      test: what is scored.
    """
    ours, theirs = fingerprints(train.images), fingerprints(test.images)
    _, first, places = np.unique(ours, return_index=True, return_inverse=True)
    copies = len(ours) - len(first)
    conflicting = int(np.sum(train.labels != train.labels[first][places]))
    leaked = int(np.isin(theirs, ours).sum())
    found, cost = [], costs.DUPLICATES
    if conflicting > _CONFLICTING * len(ours):
        found.append(f"{conflicting:,} have the pixels of another label's")
    if copies > _COPIES * len(ours):
        found.append(f"{copies:,} of {len(ours):,} training images are copies")
    if leaked > _LEAKED * len(theirs):
        found.append(
            f"{leaked:,} of {len(theirs):,} test images are among the training"
            " images"
        )
        # Each of them may be right by heart: so much may be too high.
        cost = Cost(
            100 * leaked / len(theirs),
            "of this data: as much may the accuracy be too high",
        )
    if not found:
        return None
    return Finding(
        "copies",
        "there are copies among the images",
        "; ".join(found),
        cost,
        ("fetch the official files again, or leave the copies out",),
    )


def check_shuffling(
    labels: Sequence[_Array],
    *,
    all_labels: _Array,
    num_classes: int = 10,
) -> Finding | None:
    """Compares the classes in a batch with those of a batch drawn at random.

    Args:
      labels: of some batches that followed one another, int [b] each.
      all_labels: of the data set, int [n].
      num_classes: how many there are.
    """
    sizes = [len(batch) for batch in labels]
    drawn = np.random.default_rng(0)
    shuffled = [drawn.choice(all_labels, size) for size in sizes]
    found = _entropy(labels, num_classes)
    wanted = _entropy(shuffled, num_classes)
    if found >= _ENTROPY_SHARE * wanted:
        return None
    return Finding(
        "shuffling",
        "the images are not shuffled",
        f"a batch of {sizes[0]} has {found:.2f} nats of class entropy, mean of"
        f" {len(sizes)}; well shuffled {wanted:.2f}",
        costs.SHUFFLING,
        (
            "permute all images each epoch, as this job does (of tf.data:"
            " a shuffle buffer as large as the data set)",
        ),
    )


def _entropy(labels: Sequence[_Array], num_classes: int) -> float:
    """Returns the mean over batches of the class entropy, in nats."""
    entropies = []
    for batch in labels:
        shares = np.bincount(batch, minlength=num_classes) / len(batch)
        shares = shares[shares > 0]
        entropies.append(-np.sum(shares * np.log(shares)))
    return float(np.mean(entropies))


def check_preprocessing(
    images: _Array, *, preprocessing: str, pretrained: bool
) -> Finding | None:
    """Compares what reaches the first filter with what its weights know.

    Args:
      images: some, uint8 [n, h, w, 3].
      preprocessing: what is done to them, a key of `vgg.PREPROCESSING`.
      pretrained: the weights are ImageNet's VGG16 of keras.applications, which
        knows blue, green, red, 0 to 255, less ImageNet's mean.
    """
    if not pretrained or preprocessing == "caffe":
        return None
    (mean, std), (known_mean, known_std) = (
        _moments(images, name) for name in (preprocessing, "caffe")
    )
    return Finding(
        "preprocessing",
        "the pixels are not scaled as the weights know them",
        f"preprocessing {preprocessing}: what reaches block1_conv1 has mean"
        f" {mean:.2f} and deviation {std:.2f}; ImageNet's weights know"
        f" {known_mean:.2f} and {known_std:.2f} of these images",
        costs.PREPROCESSING,
        ("--config.model.preprocessing=auto",),
    )


def _moments(images: _Array, preprocessing: str) -> tuple[float, float]:
    mean, divisor, bgr = PREPROCESSING[preprocessing]
    pixels = images[..., ::-1] if bgr else images
    scaled = (pixels.astype(np.float32) - mean) / divisor
    return float(scaled.mean()), float(scaled.std())
