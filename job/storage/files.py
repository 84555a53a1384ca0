"""Small files that are whole or absent, also after a power cut."""

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from job import errors

# In containers every process has the same number.
_PROCESS = uuid.uuid4().hex[:12]


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Replaces `path` by a file with `content`, at once, on the disk."""
    staged = path.with_name(f".{path.name}.{_PROCESS}")
    with explained(path):
        try:
            with open(staged, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Turns what a disk says of a write into StorageError, with the path."""
    try:
        yield
    except OSError as error:
        raise errors.StorageError(
            f"{path} cannot be written: {error.strerror or error}"
        ) from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces `path` by `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns what a JSON file holds; None where it is absent or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
