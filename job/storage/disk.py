"""Files in a folder of a local or mounted disk, flushed before they count.

    storage = Disk(pathlib.Path("runs/a/checkpoints"))

Neither TensorFlow nor Keras flushes the files it writes: after a power cut they
may be empty. This module flushes every file and every folder, in the order that
the commit protocol relies on. Imports no TensorFlow.
"""

import contextlib
import errno
import functools
import os
import pathlib
import uuid
from collections.abc import Mapping

from job import errors
from job.storage import Entry, faults, files

# Part of the protocol of `Storage`.
_translated = functools.partial(
    files.translate_errors, passing=(FileNotFoundError, FileExistsError)
)

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})


class Disk:
    """A folder as a `storage.Storage`; created by the first write."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        # Part of the names of temporary files: two threads of a process, or
        # processes of two machines, must not write to the same one.
        self._id = uuid.uuid4().hex[:12]

    def __str__(self) -> str:
        return str(self._root)

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """See `storage.Storage`; a disk ignores the timeout."""
        with _translated(self._root):
            if self._root.exists() and not self._root.is_dir():
                raise errors.ResumeError(
                    f"{self._root} is a file, not a folder"
                )
            entries = []
            for folder, _, names in os.walk(self._root, onerror=_raise_listing):
                for name in names:
                    path = pathlib.Path(folder, name)
                    relative = path.relative_to(self._root).as_posix()
                    if relative.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):
                            stat = path.stat()
                            entries.append(
                                Entry(relative, stat.st_size, stat.st_mtime)
                            )
            return sorted(entries, key=lambda entry: entry.name)

    def read(self, *names: str, timeout: float | None = None) -> list[bytes]:
        """See `storage.Storage`."""
        with _translated(self._root):
            return [(self._root / name).read_bytes() for name in names]

    def create(
        self, contents: Mapping[str, bytes], *, timeout: float | None = None
    ) -> None:
        """See `storage.Storage`; a disk ignores the timeout."""
        del timeout
        folders = set()
        for name, content in contents.items():
            path = self._root / name
            with _translated(path):
                faults.reach("data.begin")
                try:
                    _make_folder(path.parent)
                    files.write_flushed(path, content, "data.written")
                except FileNotFoundError:
                    # Another process has just deleted the empty folder.
                    _make_folder(path.parent)
                    files.write_flushed(path, content, "data.written")
                if path.read_bytes() != content:
                    raise OSError(errno.EIO, "read back other bytes", name)
            folders.add(path.parent)
            faults.reach("data.stored")
        for folder in folders:
            with _translated(folder):
                _sync_folder(folder)

    def publish(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """See `storage.Storage`; a disk ignores the timeout."""
        del timeout
        path = self._root / name
        staged = self._staged(path)
        with _translated(path):
            _make_folder(path.parent)
            try:
                files.write_flushed(staged, content)
                faults.reach("manifest.staged")
                _link(staged, path)
                faults.reach("manifest.published")
            finally:
                staged.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def move(self, name: str, to: str) -> None:
        """See `storage.Storage`."""
        path = self._root / name
        with _translated(path):
            path.rename(self._root / to)
            _sync_folder(path.parent)

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """See `storage.Storage`; deletes folders that become empty too."""
        path = self._root / name
        with _translated(path):
            try:
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)
            except FileNotFoundError:  # The folder itself is gone.
                return
            with contextlib.suppress(OSError):
                if path.parent != self._root:
                    path.parent.rmdir()

    def check_writable(self) -> None:
        """See `storage.Storage`."""
        probe = self._staged(self._root / "probe")
        with _translated(probe):
            _make_folder(self._root)
            files.write_flushed(probe, b"probe")
            probe.unlink()

    def _staged(self, path: pathlib.Path) -> pathlib.Path:
        return path.with_name(f"{path.name}.staged-{self._id}")


def _raise_listing(error: OSError) -> None:
    """Raises: a file that cannot be listed would seem absent."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(folder: pathlib.Path) -> None:
    """Creates a folder and its parents, each flushed in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _link(staged: pathlib.Path, path: pathlib.Path) -> None:
    """Renames a file; FileExistsError if the new name is taken."""
    try:
        # A link, unlike a rename, refuses to replace.
        os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # This file system has no links; it must have one writer at a time.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.rename(staged, path)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
