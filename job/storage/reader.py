"""Reader of files that may be damaged or hostile.

    content = read_bytes(path, max_bytes=2**20)      # None if absent
    fields = read_json(path, {"step": Number(0, whole=True), "name?": str})

Each small file of a workdir, and each file that a user names, is read by this
module. Only regular files are opened, their size is limited, and JSON must have
the expected fields, types and ranges. Imports no TensorFlow.
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

# Size limit of a JSON file in bytes, far above the size of any run's files.
MAX_JSON_BYTES = 2**24

# Nesting limit of JSON. A config has two levels.
_MAX_DEPTH = 16

# Each measured number fits into float32.
_LARGEST = 3.5e38

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})

_Value = TypeVar("_Value")


class DamagedError(errors.DataError):
    """Error for a file that cannot be read or has unexpected content."""


class Reading(NamedTuple, Generic[_Value]):
    """Content of a file that is optional in a report.

    Attributes:
      value: Intact part of the content. None if there is none.
      note: Damaged file and field. Empty if the file is absent or intact.
    """

    value: _Value | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Number:
    """Finite number in a JSON file.

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
        """Returns whether a JSON value is a number of this kind."""
        if value is None:
            return self.null
        types = (int,) if self.whole else (int, float)
        return type(value) in types and self.low <= value <= self.high


# Kind of a JSON value: a type, a `Number`, [kind of the items], or {name: kind}
# with "?" after the name of an optional field. Fields that the mapping does not
# name may have any value.
Kind = type | Number | list[Any] | Mapping[str, Any]


def inspect(read: Callable[[], _Value | None]) -> Reading[_Value]:
    """Returns the value that a function reads, or a note on the damaged file.

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
    """Returns the bytes of a file, or None if it is absent.

    Args:
      path: Path of the file.
      max_bytes: Largest accepted size in bytes.
      name: Name of the file in messages. Defaults to its path.

    Raises:
      DamagedError: The file is not regular, is larger, or cannot be read.
      UnavailableError: The disk is temporarily unavailable.
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
    except ValueError as error:  # The name has a null byte or a surrogate.
        raise DamagedError(f"{name!a} is not a path: {error}") from None
    if max(status.st_size, len(content)) > max_bytes:
        raise DamagedError(f"{name} has more than {max_bytes:,} bytes")
    return content


def read_json(path: pathlib.Path, kind: Kind, name: str = "") -> Any:
    """Returns the value of a JSON file, or None if it is absent.

    Args:
      path: Path of the file.
      kind: Expected kind of the value.
      name: Name of the file in messages. Defaults to its path.

    Raises:
      DamagedError: The file is damaged; see `read_bytes` and `parse_json`.
      UnavailableError: The disk is temporarily unavailable.
    """
    name = name or str(path)
    content = read_bytes(path, max_bytes=MAX_JSON_BYTES, name=name)
    return None if content is None else parse_json(content, kind, name)


def parse_json(content: bytes, kind: Kind, name: str) -> Any:
    """Returns the value of JSON text.

    Args:
      content: Text in UTF-8.
      kind: Expected kind of the value.
      name: Name of the file in messages.

    Raises:
      DamagedError: The text is not JSON, is nested too deeply, has a number
        that is not finite, or is not of that kind. The message names the field.
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
    """Checks depth, text and numbers, which are limited in every JSON file."""
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
    what = field[:80] if field else "the value"
    return DamagedError(f"{name}: {what} is {shown}, not {expected}")
