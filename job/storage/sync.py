"""Keeps a copy in a bucket of the small files that a run writes.

    mirror = Mirror(folder, bucket, pulled=names, last=name, events=name)
    mirror.pull()                # what an earlier attempt left
    with mirror.kept_up(60.0):   # each minute, and at the end
        ...

config.json, the record, events, results: all but the checkpoints. People look
at the copy, and a later start asks it whether the run is over; nothing else
depends on it, since a checkpoint holds the record of its run. So a copy that
fails is reported, and made again later. Imports no TensorFlow.
"""

import contextlib
import pathlib
import threading
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from absl import logging

from job import errors

if TYPE_CHECKING:  # It takes half a second to import.
    from job.storage.gcs import Bucket

# For the last copy of a run that ends early; its checkpoints are safe.
_HASTY_SECONDS = 5.0
# For one that a run waits for, as the last: there may be no later one.
LAST_SECONDS = 600.0

_Stamp = tuple[int, int]


class Mirror:
    """A folder's copy in a bucket."""

    def __init__(
        self,
        folder: pathlib.Path,
        bucket: "Bucket",
        *,
        pulled: Collection[str],
        last: str,
        events: str,
    ) -> None:
        """Copies nothing yet.

        Args:
          folder: Local folder, copied with its subfolders; files whose name
            begins with a dot are left out.
          bucket: Destination of the copies.
          pulled: Names that `pull` fetches. No other name of the bucket ever
            becomes a local path.
          last: Name of the file that is uploaded after all others: a finished
            run is recognized by it.
          events: Subfolder of TensorBoard events.
        """
        self._folder = folder
        self._bucket = bucket
        self._pulled = frozenset(pulled)
        self._last = last
        self._events = f"{events}/"
        # Modification time and size of each file as it was when it went up.
        self._sent: dict[str, _Stamp] = {}
        self._pruned = False
        self._failing = False
        self._lock = threading.Lock()
        self._over = threading.Event()

    def pull(self) -> None:
        """Fetches the files that a later start reads.

        Raises:
          StorageError: the bucket cannot be read.
        """
        there = {entry.name for entry in self._bucket.find()}
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(there & self._pulled):
            (content,) = self._bucket.read(name)
            (self._folder / name).write_bytes(content)
            self._sent[name] = self._stamp(self._folder / name)

    @contextlib.contextmanager
    def kept_up(self, seconds: float) -> Iterator[None]:
        """Copies what has changed: at once, on a timer, and at the end.

        Args:
          seconds: between two copies.

        Raises:
          StorageError: what a finished run left could not be copied.
        """
        thread = threading.Thread(
            target=self._repeat, args=(seconds,), name="mirror", daemon=True
        )
        thread.start()
        try:
            yield
        except errors.LostRaceError:
            self._over.set()  # What is there is another process's.
            raise
        except BaseException:
            self._over.set()
            self._try(_HASTY_SECONDS)
            raise
        self._over.set()
        self.push(LAST_SECONDS)

    def push(self, timeout: float | None = None) -> None:
        """Copies what has changed since the last time.

        Args:
          timeout: in seconds, for all files.

        Raises:
          StorageError: not all could be copied.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return deadline and max(0.1, deadline - time.monotonic())

        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise errors.UnavailableError("the copy before is still under way")
        try:
            here = self._files()
            for name in sorted(
                here, key=lambda name: (name == self._last, name)
            ):
                stamp = here[name]
                if self._sent.get(name) == stamp:
                    continue
                try:
                    content = (self._folder / name).read_bytes()
                except FileNotFoundError:  # Replaced just now: next time.
                    continue
                self._bucket.replace(name, content, timeout=left())
                self._sent[name] = stamp
            gone = {*self._sent} - here.keys()
            if any(name.startswith(self._events) for name in here):
                gone |= self._old_events(here, left())
            for name in gone:
                self._bucket.delete(name, timeout=left())
                self._sent.pop(name, None)
        finally:
            self._lock.release()

    def _old_events(
        self, here: dict[str, _Stamp], timeout: float | None
    ) -> set[str]:
        """Returns events of earlier starts, once: each writes all anew."""
        if self._pruned:
            return set()
        there = {
            entry.name
            for entry in self._bucket.find(self._events, timeout=timeout)
        }
        self._pruned = True
        return there - here.keys()

    def _files(self) -> dict[str, _Stamp]:
        return {
            path.relative_to(self._folder).as_posix(): self._stamp(path)
            for path in self._folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }

    @staticmethod
    def _stamp(path: pathlib.Path) -> _Stamp:
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            return stat.st_mtime_ns, stat.st_size
        return 0, 0

    def _repeat(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            self._try()

    def _try(self, timeout: float | None = None) -> None:
        """Copies, and reports the first failure of several in a row."""
        try:
            self.push(timeout)
        except errors.StorageError as error:
            if not self._failing:
                logging.warning("not copied, tried again later: %s", error)
            self._failing = True
        else:
            self._failing = False
