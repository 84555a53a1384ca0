"""Reads files that may be damaged or hostile.

    content = read_bytes(path, max_bytes=2**20)      # None if absent
    fields = read_json(path, {"step": Number(0, whole=True), "name?": str})

Each small file of a workdir, and each file that a user names, goes through this
module: only regular files are opened, their size is limited, and JSON has the
expected fields, types and ranges. Imports no TensorFlow.
"""

import dataclasses
import errno
import json
import math
import os
import pathlib
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from job import errors
from job.storage import files

# Size limit of a JSON file, which is far above that of any run.
MAX_JSON_BYTES = 2**24

# Nesting limit of JSON: a config has two levels.
_MAX_DEPTH = 16

# float32 holds each measured number.
_LARGEST = 3.5e38

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})

_Value = TypeVar("_Value")


class DamagedError(errors.DataError):
    """A file cannot be read, or its content is not as expected."""


class Reading(NamedTuple, Generic[_Value]):
    """The content of a file that a report can do without.

    Attributes:
      value: The intact part. None if there is none.
      note: File and field that are damaged. Empty if absent or intact.
    """

    value: _Value | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number in a JSON file.

    Attributes:
      low: Lower bound, inclusive.
      high: Upper bound, inclusive.
      whole: Whether it must be an integer.
      null: Whether null is valid too.
    """

    low: float = -_LARGEST
    high: float = _LARGEST
    whole: bool = False
    null: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def accepts(self, value: Any) -> bool:
        """Returns whether a JSON value is such a number."""
        if value is None:
            return self.null
        types = (int,) if self.whole else (int, float)
        return type(value) in types and self.low <= value <= self.high


# What a JSON value must be: a type, a `Number`, [kind of the items], or
# {name: kind}, where the name of an optional field ends with "?". Fields that
# the mapping does not name may have any value.
Kind = type | Number | list[Any] | Mapping[str, Any]


def inspect(read: Callable[[], _Value | None]) -> Reading[_Value]:
    """Returns what a function reads; a note if that is damaged.

    Args:
      read: Function that may raise DamagedError.
    """
    try:
        return Reading(read())
    except DamagedError as error:
        return Reading(None, str(error))


def read_bytes(
    path: pathlib.Path, *, max_bytes: int, name: str = ""
) -> bytes | None:
    """Returns the bytes of a file; None if it is absent.

    Args:
      path: Path of the file.
      max_bytes: Largest size that is accepted.
      name: Name of the file in messages. Defaults to its path.

    Raises:
      DamagedError: It is not a regular file, is larger, or may not be read.
      UnavailableError: The disk is away for a moment.
    """
    name = name or str(path)
    try:
        with open(path, "rb", opener=files.open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DamagedError(f"{name} is not a regular file")
            content = b""
            if status.st_size <= max_bytes:
                content = file.read(max_bytes + 1)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        if error.errno in files.TRANSIENT:
            raise errors.UnavailableError(f"{name}: {error.strerror}") from None
        raise DamagedError(
            f"{name} cannot be read: {files.explain(error)}"
        ) from None
    except ValueError as error:  # A null byte, or a lone surrogate.
        raise DamagedError(f"{name!a} is not a path: {error}") from None
    if max(status.st_size, len(content)) > max_bytes:
        raise DamagedError(f"{name} has more than {max_bytes:,} bytes")
    return content


def read_json(path: pathlib.Path, kind: Kind, name: str = "") -> Any:
    """Returns the value of a JSON file; None if it is absent.

    Args:
      path: Path of the file.
      kind: See `Kind`.
      name: Name of the file in messages. Defaults to its path.

    Raises:
      DamagedError: See `read_bytes` and `parse_json`.
      UnavailableError: The disk is away for a moment.
    """
    name = name or str(path)
    content = read_bytes(path, max_bytes=MAX_JSON_BYTES, name=name)
    return None if content is None else parse_json(content, kind, name)


def parse_json(content: bytes, kind: Kind, name: str) -> Any:
    """Returns the value of JSON text.

    Args:
      content: Text in UTF-8.
      kind: See `Kind`.
      name: Name of the file, for messages.

    Raises:
      DamagedError: It is no JSON, is nested too deeply, has a number that is
        not finite, or is not of that kind. The message names the field.
    """
    try:
        value = json.loads(content.decode())
    except RecursionError:
        raise DamagedError(f"{name} is nested too deeply") from None
    except ValueError as error:
        reason = errors.first_line(error, 80)
        raise DamagedError(f"{name} is not valid JSON: {reason}") from None
    _check_plain(value, name)
    _check(value, kind, name, "")
    return value


def _check_plain(value: Any, name: str) -> None:
    """Checks what no JSON file of the job has, whatever its fields are."""
    pending = [("", value, 0)]
    while pending:
        field, inner, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise DamagedError(f"{name} is nested too deeply")
        if isinstance(inner, dict):
            pending += [(k, v, depth + 1) for k, v in inner.items()]
            pending += [(k, k, depth + 1) for k in inner]
        elif isinstance(inner, list):
            pending += [(field, each, depth + 1) for each in inner]
        elif isinstance(inner, str):
            if any("\ud800" <= letter <= "\udfff" for letter in inner):
                raise _wrong(name, field, inner, "valid Unicode")
        elif isinstance(inner, float) and not math.isfinite(inner):
            raise _wrong(name, field, inner, "a finite number")
        elif isinstance(inner, int) and not abs(inner) <= sys.maxsize:
            raise DamagedError(f"{name}: an integer has more than 64 bits")


def _check(value: Any, kind: Kind, name: str, field: str) -> None:
    if isinstance(kind, Number):
        if not kind.accepts(value):
            raise _wrong(name, field, value, str(kind))
    elif isinstance(kind, list):
        _check(value, list, name, field)
        for index, item in enumerate(value):
            _check(item, kind[0], name, f"{field}[{index}]")
    elif isinstance(kind, Mapping):
        _check(value, dict, name, field)
        for key, inner in kind.items():
            key, is_optional = key.removesuffix("?"), key.endswith("?")
            path = f"{field}.{key}" if field else key
            if key in value:
                _check(value[key], inner, name, path)
            elif not is_optional:
                raise DamagedError(f"{name}: {path} is missing")
    elif type(value) is not kind:
        names: dict[Any, str] = {dict: "an object", list: "a list", str: "text"}
        expected = names.get(kind, getattr(kind, "__name__", ""))
        raise _wrong(name, field, value, expected)


def _wrong(name: str, field: str, value: Any, expected: str) -> DamagedError:
    shown = ascii(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    field = field if field.isprintable() else ascii(field)
    what = f"{field[:80]} is {shown}" if field else f"it is {shown}"
    return DamagedError(f"{name}: {what}; it must be {expected}")
