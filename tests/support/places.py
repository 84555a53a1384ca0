"""Storage of checkpoints on disk and in a bucket, with access to its files."""

import os
import pathlib
import time
import uuid

from job import storage
from job.storage import disk, gcs
from tests.support.gcs_server import Blob, StrictServer


class DiskPlace:
    """A folder on a disk."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def open(self) -> storage.Storage:
        return disk.Disk(self._root)

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self._root).as_posix(): path.read_bytes()
            for path in sorted(self._root.rglob("*"))
            if path.is_file()
        }

    def put(self, name: str, content: bytes, *, age: float = 0.0) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        then = time.time() - age
        os.utime(path, (then, then))

    def remove(self, name: str) -> None:
        (self._root / name).unlink()


class BucketPlace:
    """A path in a bucket of the strict server, which the environment names."""

    def __init__(self, server: StrictServer) -> None:
        self.server = server
        self._path = f"run-{uuid.uuid4().hex[:8]}/"

    @property
    def url(self) -> str:
        return f"gs://bucket/{self._path.rstrip('/')}"

    def open(self) -> storage.Storage:
        return gcs.Bucket(self.url, timeout_seconds=5.0)

    def files(self) -> dict[str, bytes]:
        return {
            name.removeprefix(self._path): blob.content
            for name, blob in sorted(self._blobs.items())
            if name.startswith(self._path)
        }

    def put(self, name: str, content: bytes, *, age: float = 0.0) -> None:
        self.server.generation += 1
        self._blobs[self._path + name] = Blob(
            content, self.server.generation, {}, time.time() - age
        )

    def remove(self, name: str) -> None:
        del self._blobs[self._path + name]

    @property
    def _blobs(self) -> dict[str, Blob]:
        return self.server.buckets["bucket"]
