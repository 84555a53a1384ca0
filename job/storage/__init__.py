"""Storage: files by name, each complete or absent.

`Storage` is the interface, with two implementations: a folder (`disk`) and a
bucket (`gcs`). Files have names with slashes, relative to the storage's root,
and are small enough for memory. Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a listing.

    Attributes:
      name: Name relative to the root.
      size: Size in bytes.
      modified: Time of the last write in seconds, by the storage's own clock:
        only differences are meaningful.
    """

    name: str
    size: int
    modified: float


class Storage(Protocol):
    """Files by name.

    Every method may raise StorageError, and its subclass UnavailableError if a
    later try may succeed. `timeout` limits all tries of a call, in seconds; if
    None, the storage's own limit holds. `str` returns the location, for
    messages.
    """

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """Returns the files whose names begin with `prefix`, sorted by name."""

    def read(self, *names: str, timeout: float | None = None) -> list[bytes]:
        """Returns the bytes of files; FileNotFoundError if one is absent."""

    def create(
        self, contents: Mapping[str, bytes], *, timeout: float | None = None
    ) -> None:
        """Writes files that no other process writes, durably.

        The names contain the writer's id. The stored bytes are compared with
        the given ones. A file of an earlier try is written again.
        """

    def publish(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """Creates a file atomically and durably, unless the name is taken.

        Files that were created before are durable as well.

        Raises:
          FileExistsError: The name is taken, perhaps by an earlier try of this
            very call whose answer was lost.
        """

    def move(self, name: str, to: str) -> None:
        """Renames a file; FileNotFoundError if it is absent."""

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a file if it exists."""

    def check_writable(self) -> None:
        """Raises StorageError, with a fix, if a save would fail."""
