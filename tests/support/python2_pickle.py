"""Pickles as Python 2 wrote them, for files of CIFAR-10's Python version."""

import io
import pickle
import struct
from typing import Any, ClassVar

import numpy as np


class _Pickler(pickle._Pickler):
    """Pickler of bytes and str as Python 2's str, with NumPy's former name."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_text(self, value: Any) -> None:
        data = value if isinstance(value, bytes) else value.encode()
        if len(data) < 256:
            self.write(b"U" + struct.pack("<B", len(data)) + data)
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = save_text
    dispatch[str] = save_text

    def save_global(self, value: Any, name: str | None = None) -> None:
        name = name or value.__qualname__
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global
    dispatch[type(len)] = save_global


def dump(value: Any) -> bytes:
    """Returns a pickle of protocol 2."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def batch(records: bytes, name: str) -> bytes:
    """Converts a file of the binary version to one of the Python version.

    Args:
      records: Contents of the file, 10,000 x 3,073 bytes.
      name: Name of the batch.
    """
    rows = np.frombuffer(records, np.uint8).reshape(-1, 3073)
    return dump(
        {
            b"batch_label": name.encode(),
            b"labels": rows[:, 0].tolist(),
            b"data": np.ascontiguousarray(rows[:, 1:]),
            b"filenames": [b"%05d.png" % i for i in range(len(rows))],
        }
    )
