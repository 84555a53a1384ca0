"""Copy of a run's small files in a bucket, updated while it runs.

    mirror = Mirror(folder, bucket, pulled=names, last=name, events=name)
    mirror.pull()                # files of an earlier attempt
    with mirror.uploading(60.0):   # uploads every minute and at the end
        ...

These are all files but the checkpoints, such as config, metrics log, events and
results. Users read the copy, and a later attempt checks it for a finished run.
Nothing else depends on it, as a checkpoint contains the metrics log of its run.
So a failed upload is logged and repeated later. Imports no TensorFlow.
"""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from absl import logging

from job import errors

if TYPE_CHECKING:  # The import takes half a second.
    from job.storage.gcs import Bucket

# Size limit in bytes. A run writes no larger file.
_MAX_BYTES = 2**28
# Time limit of the last upload of a run that ends early.
_HASTY_SECONDS = 5.0
# Time limit of the last upload of a finished run, which no later one repeats.
LAST_SECONDS = 600.0

_Stamp = tuple[int, int]


class Mirror:
    """Local folder and its copy in a bucket."""

    def __init__(
        self,
        folder: pathlib.Path,
        bucket: "Bucket",
        *,
        pulled: Collection[str],
        last: str,
        events: str,
    ) -> None:
        """Prepares the copy without a transfer.

        Args:
          folder: Local folder, copied with its subfolders except for files
            whose name begins with a dot.
          bucket: Destination of the copies.
          pulled: Names that `pull` downloads. No other name of the bucket
            becomes a local path.
          last: Name of the file that is uploaded after all others, by which a
            finished run is recognized.
          events: Subfolder of TensorBoard events.
        """
        self._folder = folder
        self._bucket = bucket
        self._pulled = frozenset(pulled)
        self._last = last
        self._events = f"{events}/"
        # Modification time and size of each file when it was uploaded.
        self._sent: dict[str, _Stamp] = {}
        self._pruned = False
        self._failing = False
        self._lock = threading.Lock()
        self._over = threading.Event()

    def pull(self) -> None:
        """Downloads the files that a resumed run reads.

        Raises:
          StorageError: The bucket cannot be read.
        """
        there = {e.name: e.size for e in self._bucket.find()}
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(there.keys() & self._pulled):
            if there[name] > _MAX_BYTES:
                raise errors.StorageError(
                    f"{self._bucket}/{name}: the object has {there[name]:,}"
                    f" bytes, more than {_MAX_BYTES:,}. Fix: remove the object"
                )
            (self._folder / name).write_bytes(self._bucket.read(name))
            self._sent[name] = self._stamp(self._folder / name)

    @contextlib.contextmanager
    def uploading(
        self, seconds: float, is_owner: Callable[[], bool]
    ) -> Iterator[None]:
        """Uploads changed files at intervals, and at the end of the block.

        Args:
          seconds: Interval between two uploads, in seconds.
          is_owner: Function that returns whether files may be uploaded; see
            `Workdir.uploading`.

        Raises:
          StorageError: The files of a finished run could not be uploaded.
        """
        thread = threading.Thread(
            target=self._repeat,
            args=(seconds, is_owner),
            name="mirror",
            daemon=True,
        )
        thread.start()
        try:
            yield
        except errors.LostRaceError:
            self._over.set()  # The files there belong to another process.
            raise
        except BaseException:
            self._over.set()
            if is_owner():
                self._try(_HASTY_SECONDS)
            raise
        self._over.set()
        self.push(LAST_SECONDS)

    def push(
        self, timeout: float | None = None, *, only: str | None = None
    ) -> None:
        """Uploads the files that have changed since the last call.

        Args:
          timeout: Limit for all files, in seconds. If None, unlimited.
          only: Name of the only file to upload. If None, all are.

        Raises:
          StorageError: Not all files could be uploaded.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return deadline and max(0.1, deadline - time.monotonic())

        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise errors.UnavailableError(
                f"{self._bucket}: the previous upload is still in progress"
            )
        try:
            here = self._files()
            if only is not None:
                here = {name: here[name] for name in here if name == only}
            for name in sorted(
                here, key=lambda name: (name == self._last, name)
            ):
                stamp = here[name]
                if self._sent.get(name) == stamp:
                    continue
                try:
                    content = (self._folder / name).read_bytes()
                except FileNotFoundError:  # The next call uploads it.
                    continue
                self._bucket.replace(name, content, timeout=left())
                self._sent[name] = stamp
            gone = set() if only else {*self._sent} - here.keys()
            if not only and any(name.startswith(self._events) for name in here):
                gone |= self._old_events(here, left())
            for name in gone:
                self._bucket.delete(name, timeout=left())
                self._sent.pop(name, None)
        finally:
            self._lock.release()

    def _old_events(
        self, here: dict[str, _Stamp], timeout: float | None
    ) -> set[str]:
        """Returns the events of earlier attempts, on the first call only.

        Each attempt writes the events of the complete run again.
        """
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

    def _repeat(self, seconds: float, is_owner: Callable[[], bool]) -> None:
        while not self._over.wait(seconds):
            if is_owner():
                self._try()

    def _try(self, timeout: float | None = None) -> None:
        """Uploads changed files, or logs the first of consecutive failures."""
        try:
            self.push(timeout)
        except errors.StorageError as error:
            if not self._failing:
                logging.warning("Postponed a failed upload: %s", error)
            self._failing = True
        else:
            self._failing = False
