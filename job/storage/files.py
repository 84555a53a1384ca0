"""Small files that are complete or absent, also after a power cut.

    write_json(workdir / "a.json", value)    # atomically, or StorageError
    read_json(workdir / "a.json")            # None if absent or damaged

Imports no TensorFlow.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from job import errors

# In containers every process has the same process id.
_PROCESS = uuid.uuid4().hex[:12]

_TRANSIENT = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT}
)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file atomically and flushes it; raises StorageError."""
    staged = path.with_name(f".{path.name}.{_PROCESS}")
    with translate_errors(path):
        try:
            write_flushed(staged, content)
            os.replace(staged, path)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise


def write_flushed(path: pathlib.Path, content: bytes) -> None:
    """Writes a file and waits until its bytes are on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def translate_errors(
    path: pathlib.Path,
    *others: type[Exception],
    passing: tuple[type[OSError], ...] = (),
) -> Iterator[None]:
    """Re-raises OSError as StorageError with the path.

    Args:
      path: File or folder that the block reads or writes.
      *others: Further exceptions to translate, such as TensorFlow's.
      passing: Exceptions that are not translated.

    Raises:
      StorageError: The file cannot be read or written.
      UnavailableError: The same, and a later try may succeed: a network disk
        that is away for a moment.
    """
    translated: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except passing:
        raise
    except translated as error:
        transient = getattr(error, "errno", None) in _TRANSIENT
        kind = errors.UnavailableError if transient else errors.StorageError
        cause = (
            getattr(error, "strerror", None)
            or getattr(error, "message", None)
            or error
        )
        raise kind(f"{path}: {cause}") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces a file atomically by indented JSON.

    Args:
      path: Path of the file.
      value: Value of JSON types. Numbers that are not finite become null,
        because JSON has none.
    """
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    write_atomically(path, text.encode() + b"\n")


def finite(value: Any) -> Any:
    """Returns a JSON value with null in place of NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def read_json(path: pathlib.Path) -> Any:
    """Returns the value in a JSON file; None if absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
