"""CIFAR-10's official binary version, as a folder or as its .tar.gz.

It has six files of 10,000 records each. A record has one byte of label, then
1,024 bytes each of red, green and blue; see
https://www.cs.toronto.edu/~kriz/cifar.html.

    found = archive.find(binary.VERSION, path)
    read(found, archive_sha256="")   # Dataset
"""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from job import errors
from job.data import archive, dataset

PIXELS = 3 * dataset.IMAGE_SIZE**2
RECORDS = 10_000
_FILE_BYTES = RECORDS * (1 + PIXELS)

VERSION = archive.Version(
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    # From tensorflow-datasets 4.9.10, url_checksums/cifar10.txt.
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test_files=("test_batch.bin",),
    least_bytes=_FILE_BYTES,
    most_bytes=_FILE_BYTES,
)


def read(
    path: pathlib.Path,
    archive_sha256: str = "",
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Reads both splits into memory.

    Args:
      path: Folder or archive that `archive.find` returned.
      archive_sha256: Checksum of the archive, hexadecimal. If "", that of the
        official archive.
      poll: Function called between two files. Its exceptions propagate.

    Returns:
      50,000 training images and 10,000 test images, in the files' order.

    Raises:
      DataError: A file has a label above 9 or only one class; see also
        `archive.read`.
    """
    contents = archive.read(VERSION, path, archive_sha256, poll)
    return dataset.Dataset(
        train=decode(path, contents, VERSION.train_files),
        test=decode(path, contents, VERSION.test_files),
        source="binary",
    )


def decode(
    path: pathlib.Path, contents: Mapping[str, bytes], names: tuple[str, ...]
) -> dataset.Split:
    """Returns the images and labels of some files.

    Args:
      path: Folder or archive of the files, for errors.
      contents: Records by file name, 10,000 x 3,073 bytes each.
      names: Names of the files, in order.

    Raises:
      DataError: A label is above 9, or all labels of a file are equal.
    """
    size = dataset.IMAGE_SIZE
    images = np.empty((len(names) * RECORDS, size, size, 3), np.uint8)
    labels = np.empty(len(names) * RECORDS, np.int32)
    for i, name in enumerate(names):
        rows = slice(i * RECORDS, (i + 1) * RECORDS)
        records = np.frombuffer(contents[name], np.uint8).reshape(RECORDS, -1)
        num_classes = len(dataset.CLASS_NAMES)
        if records[:, 0].max() >= num_classes:
            bad = int(np.argmax(records[:, 0] >= num_classes))
            raise errors.DataError(
                f"{path}: record {bad} of {name} has label {records[bad, 0]},"
                f" not 0 to {num_classes - 1}. Fix: download the data set again"
            )
        if records[:, 0].min() == records[:, 0].max():
            raise errors.DataError(
                f"{path}: all images of {name} have label {records[0, 0]}. Fix:"
                " download the data set again"
            )
        planes = records[:, 1:].reshape(RECORDS, 3, size, size)
        images[rows] = planes.transpose(0, 2, 3, 1)
        labels[rows] = records[:, 0]
    return dataset.Split(images, labels)
