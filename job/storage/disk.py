"""Files in a folder of a local or mounted disk, flushed before publication.

    storage = Disk(pathlib.Path("runs/a/checkpoints"))

A file is written under a temporary name, flushed, and linked to its final name,
which a link never replaces. On a file system without hard links a claim file
replaces the link, and only one writer at a time is allowed. A bucket that is
mounted with gcsfuse is not supported; use gs://. Imports no TensorFlow.
"""

import contextlib
import errno
import functools
import os
import pathlib
import stat
import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from job import errors
from job.storage import RANGE_BYTES, Entry, files

# The protocol of `Storage` includes these exceptions.
_translated = functools.partial(
    files.translate_errors, passing=(FileNotFoundError, FileExistsError)
)

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
# A temporary file that is older than a published one by this time belongs to a
# dead process.
ABANDONED_SECONDS = 3600.0
# A claim of this age belongs to a dead process, as a live one holds it for two
# system calls.
STALE_CLAIM_SECONDS = 60.0


class Disk:
    """Folder as a `storage.Storage`, created by the first write.

    Timeouts are ignored.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        # Part of the names of temporary files, as two threads of a process, or
        # processes of two machines, must not write to the same one.
        self._id = uuid.uuid4().hex[:12]

    def __str__(self) -> str:
        return str(self._root)

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """Implements `Storage.find`."""
        with _translated(self._root):
            if self._root.exists() and not self._root.is_dir():
                raise errors.ResumeError(
                    f"{self._root}: the path is a file. Fix: choose another"
                    " workdir"
                )
            entries = []
            for folder, _, names in os.walk(self._root, onerror=_raise_listing):
                for name in names:
                    path = pathlib.Path(folder, name)
                    relative = path.relative_to(self._root).as_posix()
                    if relative.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):
                            status = path.stat()
                            # Opening a named pipe would wait for its writer.
                            if stat.S_ISREG(status.st_mode):
                                entries.append(Entry(relative, status.st_size))
            return sorted(entries, key=lambda entry: entry.name)

    @contextlib.contextmanager
    def open(
        self,
        name: str,
        *,
        timeout: float | None = None,
        range_bytes: int = RANGE_BYTES,
    ) -> Iterator[BinaryIO]:
        """Implements `Storage.open`."""
        path = self._root / name
        with (
            _translated(path),
            open(path, "rb", opener=files.open_at_once) as file,
        ):
            yield file

    def verify(self, name: str) -> None:
        """Implements `Storage.verify` without a check, as disks need none."""

    def publish(
        self,
        name: str,
        content: Sequence[np.ndarray],
        *,
        timeout: float | None = None,
    ) -> None:
        """Implements `Storage.publish`."""
        path = self._root / name
        staged = self._staged(path)
        with files.translate_errors(path, passing=(FileExistsError,)):
            _make_folder(path.parent)
            try:
                files.write_flushed(staged, *(one.data for one in content))
                _publish(staged, path)
            except FileExistsError:
                if not path.is_file() or not _holds(path, content):
                    raise
            finally:
                staged.unlink(missing_ok=True)
            _sync_folder(path.parent)
            self._delete_abandoned(path)

    def move(self, name: str, to: str) -> None:
        """Implements `Storage.move`."""
        path = self._root / name
        with _translated(path):
            path.rename(self._root / to)
            _sync_folder(path.parent)

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Implements `Storage.delete`."""
        path = self._root / name
        with _translated(path), contextlib.suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def check_writable(self) -> None:
        """Implements `Storage.check_writable`."""
        probe = self._staged(self._root / "probe")
        with _translated(probe):
            _make_folder(self._root)
            files.write_flushed(probe, b"probe")
            probe.unlink()

    def _staged(self, path: pathlib.Path) -> pathlib.Path:
        return path.with_name(f".{path.name}.staged-{self._id}")

    def _delete_abandoned(self, published: pathlib.Path) -> None:
        """Deletes temporary files of dead processes, by the disk's clock."""
        with contextlib.suppress(OSError):
            now = published.stat().st_mtime
            for path in published.parent.glob(".*.staged-*"):
                if now - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def _raise_listing(error: OSError) -> None:
    """Raises the error, because a file that is not listed would seem absent."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: pathlib.Path) -> None:
    """Creates a folder and its parents, each flushed in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _publish(staged: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a file its final name; raises FileExistsError if it is taken."""
    try:
        # A link, unlike a rename, refuses to replace.
        os.link(staged, path)
    except FileExistsError:
        # A network disk repeats a call whose answer was lost.
        if not path.samefile(staged):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename(staged, path)


def _rename(staged: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a file its final name without hard links, for a single writer."""
    claim = path.with_name(f".{path.name}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        age = staged.stat().st_mtime - claim.stat().st_mtime
        if age < STALE_CLAIM_SECONDS:
            raise errors.UnavailableError(
                f"{path}: another process is writing this file"
            ) from None
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        os.rename(staged, path)
    finally:
        claim.unlink(missing_ok=True)


def _holds(path: pathlib.Path, content: Sequence[np.ndarray]) -> bool:
    """Returns whether a file has this content."""
    with path.open("rb") as file:
        return all(
            file.read(len(piece)) == piece.tobytes() for piece in content
        ) and not file.read(1)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
