"""Small files that are complete or absent, even after a power cut.

    write_json(workdir / "a.json", value)    # atomically, or StorageError

`reader` reads them. Imports no TensorFlow.
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

# Errors of a network disk that is temporarily unavailable.
TRANSIENT = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT}
)

# Errors of a disk that is full or read-only.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

_FIXES = {
    errno.EACCES: "give this user access to each folder of the path",
    errno.EPERM: "give this user access to each folder of the path",
    errno.ENAMETOOLONG: "choose a path with shorter names",
    errno.ELOOP: "remove the loop of symbolic links",
    errno.ENOTDIR: "choose another path, as a part of this one is a file",
    errno.EISDIR: "remove the folder of that name",
    errno.ENOSPC: "free space or inodes on the disk",
    errno.EDQUOT: "free space in the quota",
    errno.EROFS: "mount the disk writable, or choose another path",
}


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


def write_flushed(path: pathlib.Path, *content: bytes | memoryview) -> None:
    """Writes a file and waits until its bytes are on the disk."""
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def open_at_once(path: str, flags: int) -> int:
    """Opens a file without blocking, as the `opener` of `open`.

    A FIFO without a writer reads as empty instead of blocking.
    """
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


@contextlib.contextmanager
def translate_errors(
    where: pathlib.Path | str,
    *others: type[Exception],
    passing: tuple[type[Exception], ...] = (),
    kind: type[errors.JobError] = errors.StorageError,
) -> Iterator[None]:
    """Re-raises OSError as an error with the path and a fix.

    Args:
      where: File or folder that the block reads or writes, or the flag that
        names it, with its value.
      *others: Further exceptions to translate, such as TensorFlow's.
      passing: Exceptions that are not translated.
      kind: Error to raise.

    Raises:
      JobError: The file cannot be read or written. The type is `kind`.
      UnavailableError: A network disk is temporarily unavailable.
    """
    translated: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except passing:
        raise
    except translated as error:
        if getattr(error, "errno", None) in TRANSIENT:
            kind = errors.UnavailableError
        raise kind(f"{where}: {explain(error)}") from None


def explain(error: Exception) -> str:
    """Returns the cause of an OSError and a fix, for a message."""
    cause = getattr(error, "strerror", None) or getattr(error, "message", None)
    fix = _FIXES.get(getattr(error, "errno", None) or 0)
    return f"{cause or error}" + (f". Fix: {fix}" if fix else "")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces a file atomically by indented JSON.

    Args:
      path: Path of the file.
      value: Value of JSON types. Numbers that are not finite become null,
        because JSON has none.
    """
    write_atomically(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Returns the bytes that `write_json` writes."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    return text.encode() + b"\n"


def finite(value: Any) -> Any:
    """Returns a JSON value with null in place of NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
