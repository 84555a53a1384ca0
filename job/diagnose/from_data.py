"""Checks of images, labels, their order and their augmentation.

    check_labels(labels, num_classes=10)
    check_copies(train, test)
    check_shuffling(labels_by_batch, all_labels=labels, num_classes=10)

They take arrays of any data set.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job.augment import Augment
from job.data.dataset import Split
from job.data.pipeline import TrainBatch
from job.diagnose import costs, pixels
from job.diagnose.finding import Cost, Finding

_Array = npt.NDArray

# Tolerated ratio of the largest class to the smallest one, and tolerated
# difference in standard deviations of a random draw: a small random sample is
# never balanced.
_IMBALANCE, _DEVIATIONS = 1.5, 6.0
# Tolerated fractions of images that are copies of one another, copies of test
# images, and copies under another label. CIFAR-10 has a few of each.
_COPIES, _LEAKED, _CONFLICTING = 0.01, 0.005, 0.001
# Fraction of a shuffled batch's entropy below which a batch is not shuffled.
_ENTROPY_FRACTION = 0.9
# Fraction of images that must be equal on two replicas for a finding. Chance
# may leave an image or two unchanged.
_EQUAL = 0.9


def check_labels(labels: _Array, *, num_classes: int) -> Finding | None:
    """Checks the shape, type and range of the labels.

    A column of labels, [n, 1], broadcasts against [n] predictions to [n, n]
    without an error. Labels from 1 lose a class, and make the loss NaN on GPUs.

    Args:
      labels: Labels as the loss gets them; int [n] is right.
      num_classes: Number of outputs of the network.
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
    return Finding(
        "balance",
        "classes are not of one size",
        f"class {counts.argmax()} has {most:,} images, class"
        f" {counts.argmin()} has {fewest:,}; CIFAR-10 has as many of each",
        costs.IMBALANCE,
        ("compare the labels with the official files, or fetch those again",),
    )


def fingerprints(images: _Array) -> _Array:
    """Returns a hash of each image, equal for images with equal bytes.

    Args:
      images: Images of any type, [n, ...].

    Returns:
      uint64 [n].
    """
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    digests = [
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def check_copies(train: Split, test: Split) -> Finding | None:
    """Looks for exact copies: in train, under two labels, of test images.

    Args:
      train: Training split.
      test: Evaluation split.
    """
    ours, theirs = fingerprints(train.images), fingerprints(test.images)
    _, first, indices = np.unique(ours, return_index=True, return_inverse=True)
    copies = len(ours) - len(first)
    conflicting = int(np.sum(train.labels != train.labels[first][indices]))
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
        # Each of them may be memorized, which bounds the inflation.
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
    num_classes: int,
) -> Finding | None:
    """Compares the class entropy of batches with that of random ones.

    Args:
      labels: Labels of consecutive batches, int [b] each.
      all_labels: Labels of the data set, int [n].
      num_classes: Number of classes.
    """
    sizes = [len(batch) for batch in labels]
    rng = np.random.default_rng(0)
    shuffled = [rng.choice(all_labels, size) for size in sizes]
    found = _entropy(labels, num_classes)
    wanted = _entropy(shuffled, num_classes)
    if found >= _ENTROPY_FRACTION * wanted:
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
    """Returns the class entropy of a batch in nats, averaged over batches."""
    entropies = []
    for batch in labels:
        fractions = np.bincount(batch, minlength=num_classes) / len(batch)
        fractions = fractions[fractions > 0]
        entropies.append(-np.sum(fractions * np.log(fractions)))
    return float(np.mean(entropies))


def check_preprocessing(
    images: _Array, *, preprocessing: str, pretrained: bool
) -> Finding | None:
    """Looks for ImageNet's weights on pixels of another scale.

    Args:
      images: Sample of the images, uint8 [n, h, w, 3].
      preprocessing: Preprocessing of the network, a key of `pixels.SCALES`.
      pretrained: Whether the weights are ImageNet's VGG16 of
        keras.applications. It was trained on BGR, 0 to 255, minus ImageNet's
        mean.
    """
    if not pretrained or preprocessing == "caffe":
        return None
    ours, theirs = (
        pixels.scale(images, name) for name in (preprocessing, "caffe")
    )
    return Finding(
        "preprocessing",
        "the pixels are not scaled as the weights know them",
        f"preprocessing {preprocessing}: what reaches block1_conv1 has mean"
        f" {ours.mean():.2f} and deviation {ours.std():.2f}; ImageNet's weights"
        f" know {theirs.mean():.2f} and {theirs.std():.2f} of these images",
        costs.PREPROCESSING,
        ("--config.model.preprocessing=auto",),
    )


def check_replica_augmentation(
    augment: Augment, images: _Array, *, by_image_only: bool
) -> Finding | None:
    """Looks for replicas that augment the same images in the same way.

    Args:
      augment: Augmentation of a run with two replicas, b images on each.
      images: Images that both replicas get, uint8 [b, 32, 32, 3].
      by_image_only: Whether the augmentation depends on image and epoch alone.
        Then it should be the same on all replicas.
    """
    if by_image_only:
        return None
    count = len(images)
    batch = TrainBatch(
        image=tf.constant(images),
        label=tf.zeros([count], tf.int32),
        index=tf.range(count),
        epoch=tf.zeros([count], tf.int32),
    )
    step = tf.constant(0, tf.int64)
    first, second = (
        augment(batch, step, tf.constant(replica)).image.numpy()
        for replica in (0, 1)
    )
    same = int(np.sum(np.all(first == second, axis=(1, 2, 3))))
    changed = int(np.sum(np.any(first != images, axis=(1, 2, 3))))
    if not changed or same < _EQUAL * count:
        return None
    return Finding(
        "replica_augmentation",
        "all replicas see the same augmentation",
        f"{same} of {count} images came out equal on two replicas, and"
        f" {changed} of them were changed",
        costs.REPLICA_AUGMENTATION,
        ("key the draws by position in the global batch, or by replica",),
    )
