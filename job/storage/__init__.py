"""Files by name, whole or absent: what checkpoints need of a place.

Two places are known, a folder (`disk`) and a bucket (`gcs`). Files have names
with slashes, relative to the storage's root, and are small enough for memory.
Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, as a listing shows it.

    Attributes:
      name: relative to the root.
      size: in bytes.
      modified: when it was written, in seconds, by the storage's own clock:
        only differences mean something.
    """

    name: str
    size: int
    modified: float


class Storage(Protocol):
    """Files by name.

    Every method may raise StorageError, and its subclass UnavailableError where
    a later try may succeed. `timeout` is in seconds, for all tries; None: the
    storage's own. `str` of it is where it is, for messages.
    """

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """Returns the files whose names begin with `prefix`, by name."""

    def read(self, *names: str, timeout: float | None = None) -> list[bytes]:
        """Returns files' bytes; FileNotFoundError where one is absent."""

    def create(
        self, contents: Mapping[str, bytes], *, timeout: float | None = None
    ) -> None:
        """Writes files that nobody else writes; all are durable at the end.

        The names carry the writer's id. What is stored was compared with what
        was given. One that an earlier try left is written again.
        """

    def publish(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """Makes a file appear, whole, at once, unless the name is taken.

        Durable at the end, and whatever was created before it is as well.

        Raises:
          FileExistsError: it is taken; perhaps by an earlier try of this very
            call whose success was not heard of.
        """

    def move(self, name: str, to: str) -> None:
        """Renames a file; FileNotFoundError where it is absent."""

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Removes a file, if it is there."""

    def check_writable(self) -> None:
        """Raises StorageError, saying what would do, where saves would fail."""
