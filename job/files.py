"""Small files that are whole or absent, also after a power cut."""

import json
import os
import pathlib
from typing import Any


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Replaces `path` by a file with `content`, at once, on the disk."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with open(staged, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces `path` by `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: pathlib.Path) -> Any:
    """Returns what a JSON file holds; None where it is absent or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
