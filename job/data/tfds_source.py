"""CIFAR-10 as tensorflow-datasets keeps it, downloaded on first use.

find(path)          # the data_dir that path means, or None
read(data_dir)      # -> Dataset; None: TFDS' own folder, with download
"""

import pathlib
import re
from collections.abc import Iterable

import numpy as np

from job import errors
from job.data import dataset

NAME = "cifar10"


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the TFDS `data_dir` that `path` means, or None.

    Args:
      path: the data_dir itself, its `cifar10`, or `cifar10/VERSION`.
    """
    for data_dir in (path, path.parent, path.parent.parent):
        for info in data_dir.glob(f"{NAME}/*/dataset_info.json"):
            if path in (data_dir, *info.parents):
                return data_dir
    return None


def read(data_dir: pathlib.Path | None) -> dataset.Dataset:
    """Reads both splits into memory, ordered by the examples' ids.

    The ids count the records of the official binary version (`train_00000`), so
    the order, and with it the run, is the same as from the binary source.

    Args:
      data_dir: what `find` returned; None for TFDS' own folder, where the data
        set is downloaded if it is not there yet.

    Raises:
      DataError: it cannot be downloaded or read.
    """
    # Slow to import, and only this source needs it.
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        splits = tfds.load(
            NAME,
            split=["train", "test"],
            data_dir=None if data_dir is None else str(data_dir),
            download=data_dir is None,
            batch_size=1000,
        )
        train, test = (_collect(tfds.as_numpy(split)) for split in splits)
    except errors.DataError:
        raise
    except Exception as error:  # pylint: disable=broad-except
        # TFDS and its download raise whatever their layers raise.
        reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
        if data_dir is None:
            raise errors.DataError(
                f"tensorflow-datasets could not get {NAME} ({reason}). Three"
                " ways out: (1) give this machine a network and start again;"
                " (2) fetch cifar-10-binary.tar.gz elsewhere and set"
                " --config.data.dir to it, or to a folder that"
                " tensorflow-datasets prepared; (3) set"
                " --config.data.source=synthetic for drawn images"
            ) from None
        raise errors.DataError(f"{data_dir}: {reason}") from None
    return dataset.Dataset(train, test, source="tfds")


def _collect(batches: Iterable[dict[str, np.ndarray]]) -> dataset.Split:
    parts = list(batches)
    ids = np.concatenate([part["id"] for part in parts])
    images = np.concatenate([part["image"] for part in parts])
    labels = np.concatenate([part["label"] for part in parts]).astype(np.int32)
    size = dataset.IMAGE_SIZE
    if (
        images.shape[1:] != (size, size, 3)
        or labels.max() >= dataset.NUM_CLASSES
    ):
        raise errors.DataError(
            f"images {images.shape[1:]} and labels to {labels.max()} are not"
            " CIFAR-10's"
        )
    order = np.argsort(ids, kind="stable")
    return dataset.Split(np.ascontiguousarray(images[order]), labels[order])
