"""CIFAR-10's official binary version, as a folder or as its .tar.gz.

Six files of 10,000 records each; a record is one byte of label, then 1,024
bytes each of red, green and blue (https://www.cs.toronto.edu/~kriz/cifar.html).
The archive is never extracted: its checksum is verified, then members of known
names and sizes are read into memory.

    find(path)                       # folder or archive at a path
    read(found, archive_sha256="")   # Dataset
"""

import hashlib
import itertools
import pathlib
import tarfile
import zlib
from collections.abc import Callable

import numpy as np

from job import errors
from job.data import dataset
from job.storage import reader
from job.storage.files import translate_errors

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
# From tensorflow-datasets 4.9.10, url_checksums/cifar10.txt.
ARCHIVE_SHA256 = (
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
)
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)

_PIXELS = 3 * dataset.IMAGE_SIZE**2
_RECORDS = 10_000
_FILE_BYTES = _RECORDS * (1 + _PIXELS)


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of .bin files or the archive at `path`, or None.

    Args:
      path: The folder itself, its parent, the archive, or the archive's folder.
        Every file counts as an archive: `read` raises if it is not one.
    """
    if path.is_file():
        return path
    names = {*TRAIN_FILES, *TEST_FILES}
    for folder in (path, path / FOLDER):
        if any((folder / name).exists() for name in names):
            return folder
    archive = path / ARCHIVE
    return archive if archive.is_file() else None


def read(
    path: pathlib.Path,
    archive_sha256: str = "",
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Reads both splits into memory.

    Args:
      path: Folder or archive that `find` returned.
      archive_sha256: Checksum of the archive, hexadecimal. If "", that of the
        official archive.
      poll: Called between two files; its exceptions end the function.

    Returns:
      50,000 training images and 10,000 test images, in the files' order.

    Raises:
      DataError: A file is missing, has the wrong size, a label above 9 or one
        class only, two files are equal, or the archive has another checksum or
        irregular members.
    """
    with translate_errors(path, kind=errors.DataError):
        if path.is_dir():
            files = _read_folder(path, poll)
        else:
            files = _read_archive(path, archive_sha256 or ARCHIVE_SHA256, poll)
    _check_copies(path, files)
    return dataset.Dataset(
        train=_decode(path, files, TRAIN_FILES),
        test=_decode(path, files, TEST_FILES),
        source="binary",
    )


def _read_folder(
    folder: pathlib.Path, poll: Callable[[], None]
) -> dict[str, bytes]:
    files = {}
    for name in TRAIN_FILES + TEST_FILES:
        poll()
        path = folder / name
        content = reader.read_bytes(path, max_bytes=2 * _FILE_BYTES)
        if content is None:
            raise errors.DataError(
                f"{path} is missing; the six .bin files belong in one folder"
            )
        _check_size(path, len(content))
        files[name] = content
    return files


def _read_archive(
    path: pathlib.Path, sha256: str, poll: Callable[[], None]
) -> dict[str, bytes]:
    with open(path, "rb") as file:
        start = file.read(512)
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise errors.DataError(
            f"{path}: {_describe(start)}sha256 is {found}, not"
            f" {sha256.lower()}; download {ARCHIVE} again, or, for an archive"
            " of your own, set config.data.archive_sha256"
        )
    wanted = {*TRAIN_FILES, *TEST_FILES}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                poll()
                name = pathlib.PurePosixPath(member.name).name
                if name not in wanted:
                    continue
                if not member.isreg() or name in files:
                    raise errors.DataError(
                        f"{path}: member {member.name} is not one plain file"
                    )
                _check_size(f"{path}: member {member.name}", member.size)
                content = tar.extractfile(member)
                assert content is not None  # A regular file has contents.
                files[name] = content.read(_FILE_BYTES)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise errors.DataError(
            f"{path}: {error}; it is not a .tar.gz"
        ) from None
    for name in sorted(wanted - files.keys()):
        raise errors.DataError(f"{path}: there is no {name} in it")
    return files


def _describe(start: bytes) -> str:
    if start[:2] == b"\x1f\x8b":
        return ""
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return "this is a web page, not an archive: "
    return "this is not a gzip file: "


def _check_size(what: object, size: int) -> None:
    if size != _FILE_BYTES:
        raise errors.DataError(
            f"{what} has {size:,} bytes, not {_FILE_BYTES:,}: it was cut short"
            " or is another file; fetch it again"
        )


def _check_copies(path: pathlib.Path, files: dict[str, bytes]) -> None:
    """Refuses a file that is there twice: a test set of training images."""
    for one, other in itertools.combinations(files, 2):
        if files[one] == files[other]:
            raise errors.DataError(
                f"{path}: {other} is a copy of {one}. Fix: download the data"
                " set again"
            )


def _decode(
    path: pathlib.Path, files: dict[str, bytes], names: tuple[str, ...]
) -> dataset.Split:
    size = dataset.IMAGE_SIZE
    images = np.empty((len(names) * _RECORDS, size, size, 3), np.uint8)
    labels = np.empty(len(names) * _RECORDS, np.int32)
    for i, name in enumerate(names):
        rows = slice(i * _RECORDS, (i + 1) * _RECORDS)
        records = np.frombuffer(files[name], np.uint8).reshape(_RECORDS, -1)
        num_classes = len(dataset.CLASS_NAMES)
        if records[:, 0].max() >= num_classes:
            bad = int(np.argmax(records[:, 0] >= num_classes))
            raise errors.DataError(
                f"{path}: {name}, record {bad}: label {records[bad, 0]};"
                f" CIFAR-10 has labels 0 to {num_classes - 1}"
            )
        if records[:, 0].min() == records[:, 0].max():
            raise errors.DataError(
                f"{path}: all images of {name} have label {records[0, 0]}. Fix:"
                " download the data set again"
            )
        planes = records[:, 1:].reshape(_RECORDS, 3, size, size)
        images[rows] = planes.transpose(0, 2, 3, 1)
        labels[rows] = records[:, 0]
    return dataset.Split(images, labels)
