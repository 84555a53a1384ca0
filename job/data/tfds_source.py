"""CIFAR-10 from tensorflow-datasets (TFDS), downloaded on first use.

Examples are ordered by id, so that a run does not depend on the source of its
images.

    find(path)                    # data_dir of a path, or None
    read(data_dir)                # Dataset
    read(None, download=True)     # from TFDS' own folder
"""

import pathlib
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable

import numpy as np

from job import errors
from job.data import dataset

NAME = "cifar10"

# Host that TFDS downloads from, and time to wait for a connection to it, as
# TFDS' own attempts take minutes.
HOST = "www.cs.toronto.edu"
NETWORK_SECONDS = 20.0


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the TFDS `data_dir` of a path, or None.

    Args:
      path: Path of the data_dir, of its `cifar10`, or of `cifar10/VERSION`.
    """
    for data_dir in (path, path.parent, path.parent.parent):
        for info in data_dir.glob(f"{NAME}/*/dataset_info.json"):
            if path in (data_dir, *info.parents):
                return data_dir
    return None


def is_unused(path: pathlib.Path) -> bool:
    """Returns whether a folder is absent, empty, or used by TFDS alone."""
    own = (NAME, "downloads")  # An interrupted download leaves them.
    return not path.exists() or (
        path.is_dir()
        and all(
            entry.name in own or entry.name.startswith(".")
            for entry in path.iterdir()
        )
    )


def read(
    data_dir: pathlib.Path | None,
    *,
    download: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Reads both splits into memory, ordered by the examples' ids.

    The ids count the records of the official binary version (`train_00000`). So
    the order equals that of the binary source, and a run has equal results.

    Args:
      data_dir: Folder that `find` returned. If None, TFDS' own folder.
      download: Whether to download the data set if it is absent.
      poll: Function called between two batches, not during the download. Its
        JobErrors propagate.

    Raises:
      DataError: The data set cannot be downloaded or read.
    """
    # The import is slow, and only this source needs it.
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(
            NAME, data_dir=None if data_dir is None else str(data_dir)
        )
        prepared = pathlib.Path(builder.data_dir) / "dataset_info.json"
        if download and not prepared.exists():
            _check_network()
            poll()
            builder.download_and_prepare()
        splits = builder.as_dataset(split=["train", "test"], batch_size=1000)
        train, test = (_collect(tfds.as_numpy(split), poll) for split in splits)
    except errors.JobError:
        raise
    except Exception as error:
        # TFDS and its download manager raise exceptions of many types.
        reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
        if download:
            raise errors.DataError(
                f"--config.data.source=tfds: {NAME} cannot be downloaded"
                f" ({reason}). Fix: (1) connect this machine to the network;"
                " (2) download cifar-10-binary.tar.gz or"
                " cifar-10-python.tar.gz elsewhere and set --config.data.dir to"
                " it; or (3) use --config.data.source=synthetic for synthetic"
                " images"
            ) from None
        raise errors.DataError(
            f"{data_dir}: the data set cannot be read ({reason}). Fix: prepare"
            " it again with tensorflow-datasets"
        ) from None
    return dataset.Dataset(train, test, source="tfds")


def _check_network() -> None:
    """Raises ConnectionError if the download cannot succeed."""
    if urllib.request.getproxies():
        return  # With a proxy, names need not resolve on this machine.
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((HOST, 443), NETWORK_SECONDS).close()
            answered.set()
        except OSError:
            pass

    # A thread is needed, because name resolution has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not answered.is_set():
        raise ConnectionError(f"{HOST} does not answer")


def _collect(
    batches: Iterable[dict[str, np.ndarray]], poll: Callable[[], None]
) -> dataset.Split:
    parts = []
    for batch in batches:
        poll()
        parts.append(batch)
    ids = np.concatenate([part["id"] for part in parts])
    images = np.concatenate([part["image"] for part in parts])
    labels = np.concatenate([part["label"] for part in parts]).astype(np.int32)
    size = dataset.IMAGE_SIZE
    num_classes = len(dataset.CLASS_NAMES)
    if images.shape[1:] != (size, size, 3) or labels.max() >= num_classes:
        raise errors.DataError(
            f"--config.data.source=tfds: images {images.shape[1:]} and labels"
            f" up to {labels.max()} are not CIFAR-10's. Fix: choose another"
            " --config.data.dir"
        )
    order = np.argsort(ids, kind="stable")
    return dataset.Split(np.ascontiguousarray(images[order]), labels[order])
