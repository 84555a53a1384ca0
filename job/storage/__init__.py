"""Storage of files by name, each complete or absent.

`Storage` is the interface. A folder (`disk`) and a bucket (`gcs`) implement it.
Files have names with slashes, relative to the storage's root. Imports no
TensorFlow.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

import numpy as np

# Size of the ranges in which an object is read, each with its own deadline.
RANGE_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Entry:
    """File in a listing.

    Attributes:
      name: Name relative to the root.
      size: Size in bytes.
    """

    name: str
    size: int


class Storage(Protocol):
    """Interface of a storage of files by name.

    Every method may raise StorageError, and its subclass UnavailableError if a
    later try may succeed. `timeout` limits the tries of each request, in
    seconds. If None, the storage's own limit applies. `str` returns the
    location, for messages.
    """

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """Returns the files whose names begin with `prefix`, sorted by name."""

    def open(
        self,
        name: str,
        *,
        timeout: float | None = None,
        range_bytes: int = RANGE_BYTES,
    ) -> AbstractContextManager[BinaryIO]:
        """Opens a file for reading; raises FileNotFoundError if absent."""

    def verify(self, name: str) -> None:
        """Raises UnavailableError if a file's bytes do not arrive intact."""

    def publish(
        self,
        name: str,
        content: Sequence[np.ndarray],
        *,
        timeout: float | None = None,
    ) -> None:
        """Creates a file atomically and durably, unless the name is taken.

        A file with the same content is a success, as an earlier try of this
        call may have created it without an answer.

        Args:
          name: Name of the file.
          content: Arrays whose concatenation is the content, uint8 [n].
          timeout: Limit for the tries of each request, in seconds.

        Raises:
          FileExistsError: The name is taken by another file.
        """

    def move(self, name: str, to: str) -> None:
        """Renames a file; raises FileNotFoundError if it is absent."""

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a file if it exists."""

    def check_writable(self) -> None:
        """Raises StorageError, with a fix, if a save would fail."""
