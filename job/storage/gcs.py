"""Files in a bucket of Google Cloud Storage.

    storage = Bucket("gs://bucket/runs/a/checkpoints")
    storage.check_writable()     # raises StorageError, with a fix

Uses google-cloud-storage with Application Default Credentials (on GKE, Workload
Identity). `STORAGE_EMULATOR_HOST` names another endpoint. TensorFlow's own
gs:// sends no checksum and no precondition and has no deadline.

An upload requires that the name is free (ifGenerationMatch=0), declares the
crc32c and compares the one that the server computed. The library repeats
requests that may succeed later. A 412 may then mean that an earlier try of this
process succeeded and its answer was lost. Size and crc32c decide this. Imports
no TensorFlow.
"""

import base64
import contextlib
import io
import os
import posixpath
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from absl import logging
from google.api_core import exceptions as api_errors
from google.cloud import storage as cloud_storage
from google.cloud.storage import exceptions as storage_errors
from google.cloud.storage import retry as storage_retry

from job import errors
from job.storage import RANGE_BYTES, Entry, gcs_errors

EMULATOR = "STORAGE_EMULATOR_HOST"

# Limit for all tries of a request of a call that sets none.
_TIMEOUT_SECONDS = 120.0
# The same limit while a user waits.
PROBE_SECONDS = 15.0
# Limits for one answer, and for a connection or a pause of an upload.
READ_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
# Wait between two tries, with jitter.
_RETRY = storage_retry.DEFAULT_RETRY.with_delay(initial=0.2, maximum=8.0)
# Size of one request of an upload, which is sent again after a failure.
_UPLOAD_BYTES = 32 * 2**20

# https://cloud.google.com/storage/docs/naming-buckets
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")


def split_url(url: str) -> tuple[str, str]:
    """Returns bucket and path of gs://BUCKET/PATH.

    Raises:
      ConfigError: The URL has another form, or a part of its path is empty, "."
        or "..".
    """
    match = _URL.fullmatch(url)
    path = (match[2] or "").rstrip("/") if match else ""
    parts = path.split("/") if path else []
    if not match or any(part in ("", ".", "..") for part in parts):
        raise errors.ConfigError(
            f"{url}: the URL is not a path in a bucket. Fix: use"
            " gs://BUCKET/PATH"
        )
    return match[1], path


class Bucket:
    """Objects of a bucket under one path, as a `storage.Storage`."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Finds credentials without sending a request.

        Args:
          url: URL of the path, gs://BUCKET/PATH.
          timeout_seconds: Limit for all tries of a request of a call that sets
            none, in seconds.
          read_seconds: Limit for one answer, in seconds.

        Raises:
          ConfigError: The URL is not gs://BUCKET/PATH.
          StorageError: No credentials were found.
        """
        bucket, self._path = split_url(url)
        self._url = f"gs://{posixpath.join(bucket, self._path)}"
        self._bucket_name = bucket
        self._id = uuid.uuid4().hex[:12]
        self._timeout = timeout_seconds
        self._read_seconds = read_seconds
        emulator = os.environ.get(EMULATOR, "")
        if emulator and "://" not in emulator:
            raise errors.StorageError(
                f"{EMULATOR}={emulator}: must begin with http:// or https://"
            )
        with self._translated():
            # The calls of this module need no project.
            self._client = cloud_storage.Client(project="none")
        self._bucket = self._client.bucket(bucket)

    def __str__(self) -> str:
        return self._url

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """Implements `Storage.find`."""
        cut = len(self._full(""))
        with self._translated(prefix):
            return sorted(
                (
                    Entry(blob.name[cut:], blob.size)
                    for blob in self._client.list_blobs(
                        self._bucket,
                        prefix=self._full(prefix),
                        fields="items(name,size),nextPageToken",
                        **self._limits(timeout),
                    )
                ),
                key=lambda entry: entry.name,
            )

    @contextlib.contextmanager
    def open(
        self,
        name: str,
        *,
        timeout: float | None = None,
        range_bytes: int = RANGE_BYTES,
    ) -> Iterator[BinaryIO]:
        """Implements `Storage.open`, and reads the file in ranges."""
        with self._reading(name):
            yield self._blob(name).open(
                "rb", chunk_size=range_bytes, **self._limits(timeout)
            )

    def read(self, name: str, *, most_bytes: int | None = None) -> bytes:
        """Returns an object's bytes, without the right to list the bucket.

        Args:
          name: Name relative to the root.
          most_bytes: Largest accepted size in bytes. If None, unlimited.

        Raises:
          FileNotFoundError: The object or the bucket does not exist.
          StorageError: The object is larger or cannot be read.
        """
        with self._reading(name):
            blob = self._blob(name)
            if most_bytes is not None:
                blob.reload(**self._limits())
                if blob.size > most_bytes:
                    raise errors.StorageError(
                        f"{self}/{name}: the object has {blob.size:,} bytes,"
                        f" more than {most_bytes:,}. Fix: choose another object"
                    )
            return blob.download_as_bytes(checksum="crc32c", **self._limits())

    def verify(self, name: str) -> None:
        """Implements `Storage.verify` by a download that is not kept."""
        with self._reading(name), open(os.devnull, "wb") as nothing:
            self._blob(name).download_to_file(
                nothing, checksum="crc32c", **self._limits()
            )

    def publish(
        self,
        name: str,
        content: Sequence[np.ndarray],
        *,
        timeout: float | None = None,
    ) -> None:
        """Implements `Storage.publish`, with memory for one request."""
        crc32c = 0
        for piece in content:
            crc32c = google_crc32c.extend(crc32c, piece)
        wanted = (
            sum(len(piece) for piece in content),
            base64.b64encode(crc32c.to_bytes(4, "big")).decode(),
        )
        blob = self._blob(name)
        blob.chunk_size = _UPLOAD_BYTES
        blob.metadata = {"writer": self._id}
        with self._translated(name):
            try:
                blob.upload_from_file(
                    io.BufferedReader(_Joined(content)),
                    size=wanted[0],
                    content_type="application/octet-stream",
                    if_generation_match=0,
                    checksum="crc32c",
                    **self._limits(timeout),
                )
            except (
                api_errors.PreconditionFailed,
                storage_errors.DataCorruption,
            ) as error:
                try:
                    blob.reload(**self._limits(timeout))
                except api_errors.NotFound:
                    # The library has deleted a damaged upload, or another
                    # process has deleted the file.
                    raise errors.UnavailableError(
                        f"{self}/{name}: {gcs_errors.one_line(error)}"
                    ) from None
            if (blob.size, blob.crc32c) == wanted:
                return  # The answer to an earlier try may have been lost.
            if (blob.metadata or {}).get("writer") != self._id:
                raise FileExistsError(f"{self}/{name} already exists")
            blob.delete(
                if_generation_match=blob.generation, **self._limits(timeout)
            )
            raise errors.UnavailableError(
                f"{self}/{name}: the upload arrived damaged"
            )

    def replace(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """Writes a file atomically and replaces any file of that name."""
        with self._translated(name):
            self._blob(name).upload_from_string(
                content, checksum="crc32c", **self._limits(timeout)
            )

    def move(self, name: str, to: str) -> None:
        """Implements `Storage.move` by a copy and a deletion."""
        with self._reading(name):
            blob = self._blob(name)
            blob.reload(**self._limits())
            self._bucket.copy_blob(
                blob,
                self._bucket,
                self._full(to),
                if_source_generation_match=blob.generation,
                **self._limits(),
            )
            # Another process may have published a file of that name.
            with contextlib.suppress(
                api_errors.NotFound, api_errors.PreconditionFailed
            ):
                blob.delete(
                    if_generation_match=blob.generation, **self._limits()
                )

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Implements `Storage.delete`."""
        with self._translated(name), contextlib.suppress(api_errors.NotFound):
            self._blob(name).delete(**self._limits(timeout))

    def check_writable(self) -> None:
        """Implements `Storage.check_writable` with every kind of request."""
        if emulator := os.environ.get(EMULATOR):
            logging.warning(
                "Using the emulator %s, not Google Cloud Storage, for %s",
                emulator,
                self,
            )
        name, content = f"probe-{self._id}", self._id.encode()
        try:
            self.publish(
                name,
                [np.frombuffer(content, np.uint8)],
                timeout=PROBE_SECONDS,
            )
            seen = [entry.name for entry in self.find(name)]
            if self.read(name) != content or seen != [name]:
                raise errors.StorageError(
                    f"{self}: a test object was read with other contents. Fix:"
                    " choose another bucket"
                )
        finally:
            with contextlib.suppress(errors.StorageError):
                self.delete(name)

    def _limits(self, timeout: float | None = None) -> dict[str, Any]:
        """Returns the arguments that limit the tries of a request."""
        seconds = self._timeout if timeout is None else timeout
        return {
            "timeout": (
                min(seconds, _CONNECT_SECONDS),
                min(seconds, self._read_seconds),
            ),
            "retry": _RETRY.with_timeout(seconds),
        }

    def _translated(
        self, name: str = ""
    ) -> contextlib.AbstractContextManager[None]:
        """Translates the client library's errors; see `gcs_errors`."""
        return gcs_errors.translate_errors(
            f"{self}/{name}" if name else str(self), bucket=self._bucket_name
        )

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Translates errors, and NotFound to FileNotFoundError."""
        with self._translated(name):
            try:
                yield
            except api_errors.NotFound:
                raise FileNotFoundError("the object does not exist") from None

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name


class _Joined(io.RawIOBase):
    """File that consists of arrays in memory, which are not copied."""

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        super().__init__()
        self._left = [piece for piece in reversed(pieces) if len(piece)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            return 0
        piece = self._left.pop()
        count = min(len(buffer), len(piece))
        memoryview(buffer)[:count] = piece[:count]
        if count < len(piece):
            self._left.append(piece[count:])
        self._position += count
        return count
