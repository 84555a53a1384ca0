"""CIFAR-10's Python version, as a folder or as its .tar.gz.

It has six pickled dicts, written by Python 2 with protocol 2. A pickle is a
program that may call any function. So only the instructions of the original
files are accepted, and the names of NumPy in them become plain records of data.
Nothing of the file is executed.

    found = archive.find(python_version.VERSION, path)
    read(found, archive_sha256="")   # Dataset, equal to that of `binary`
"""

import io
import pathlib
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from job import errors
from job.data import archive, binary, dataset

VERSION = archive.Version(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    # From Keras 3.15, keras/src/datasets/cifar10.py.
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test_files=("test_batch",),
    least_bytes=binary.RECORDS * binary.PIXELS,
    most_bytes=40_000_000,
)

# Instructions of the original files, by their names in `pickletools`.
_OPCODES = frozenset(
    {
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
        *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM"),
        *("SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
    }
)
# The hash of a tuple of tuples may take 2^n operations. The original has 6.
_MOST_TUPLES = 16
_NUMPY_NAMES = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }
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
      DataError: A file is not a batch of CIFAR-10, or has an instruction that
        the original files do not have; see also `archive.read`.
    """
    contents = archive.read(VERSION, path, archive_sha256, poll)
    for name in VERSION.files:
        poll()
        try:
            contents[name] = _to_records(_load(contents[name]))
        except Exception as error:
            # A damaged pickle raises exceptions of many types.
            raise errors.DataError(
                f"{path}: {name} is not a batch of CIFAR-10's Python version"
                f" ({errors.first_line(error)}). Fix: download"
                f" {VERSION.archive} again"
            ) from None
    return dataset.Dataset(
        train=binary.decode(path, contents, VERSION.train_files),
        test=binary.decode(path, contents, VERSION.test_files),
        source="python",
    )


class _Unpickler(pickle.Unpickler):
    """Unpickler that reads the names of NumPy as records of their arguments."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name} is refused")

        # Each name has its own class, as a pickle may change the class.
        class Record:
            def __init__(self, *arguments: Any) -> None:
                self.arguments = arguments

            def __setstate__(self, state: Any) -> None:
                self.state = state

        return Record


def _load(content: bytes) -> Any:
    """Returns the object in a pickle, with strings of Python 2 as bytes."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(
                f"the instruction {opcode.name} is refused"
            )
        tuples += "TUPLE" in opcode.name
        # The C implementation allocates memory for all smaller indices.
        index = argument or 0 if opcode.name == "LONG_BINPUT" else 0
        if tuples > _MOST_TUPLES or index > len(content):
            raise pickle.UnpicklingError(f"{opcode.name} has too many objects")
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


def _to_records(batch: Any) -> bytes:
    """Returns a batch as a file of the binary version.

    Args:
      batch: Dict with b"labels", a list of int, and b"data", a record of a
        uint8 array [10000, 3072].
    """
    if type(batch) is not dict or not {b"labels", b"data"} <= batch.keys():
        raise ValueError("labels or data are missing")
    _, shape, dtype, is_fortran, pixels = batch[b"data"].state
    if shape != (binary.RECORDS, binary.PIXELS) or is_fortran is not False:
        raise ValueError("the data has another shape")
    if dtype.arguments[0] != b"u1" or type(pixels) is not bytes:
        raise ValueError("the data is not uint8")
    labels = batch[b"labels"]
    if type(labels) is not list or {type(label) for label in labels} != {int}:
        raise ValueError("the labels are not a list of int")
    return np.concatenate(
        [
            np.frombuffer(bytes(labels), np.uint8).reshape(binary.RECORDS, 1),
            np.frombuffer(pixels, np.uint8).reshape(binary.RECORDS, -1),
        ],
        axis=1,
    ).tobytes()
