"""Files in a bucket of Google Cloud Storage.

    storage = Bucket("gs://bucket/runs/a/checkpoints")
    storage.check_writable()     # raises StorageError, with a fix

Uses google-cloud-storage with Application Default Credentials (on GKE, Workload
Identity); `STORAGE_EMULATOR_HOST` names another endpoint. TensorFlow's own
gs:// sends no checksum and no precondition and has no deadline.

An upload requires that the name is free (ifGenerationMatch=0), declares the
crc32c and compares the one that the server computed. Retries are made here and
not in the library: a 412 may mean that an earlier try of this process succeeded
and its answer was lost, which only its sender can tell. Imports no TensorFlow.
"""

import base64
import contextlib
import os
import posixpath
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import google_crc32c
from absl import logging
from google.api_core import exceptions as api_errors
from google.api_core import retry as api_retry
from google.cloud import storage as cloud_storage
from google.cloud.storage import exceptions as storage_errors

from job import errors
from job.storage import Entry, faults, gcs_errors
from job.storage.gcs_errors import DamagedError

EMULATOR = "STORAGE_EMULATOR_HOST"

# Limit for all tries of a call that sets none.
_TIMEOUT_SECONDS = 120.0
# The same where a person waits.
PROBE_SECONDS = 15.0
# Limit for one answer, and for one piece of an upload.
READ_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
# Wait between two tries: doubled up to the longest, with jitter.
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 8.0
_THREADS = 4

# https://cloud.google.com/storage/docs/naming-buckets
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")

_T = TypeVar("_T")


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
            f"{url} is not a place in a bucket; it must be gs://BUCKET/PATH"
        )
    return match[1], path


class Bucket:
    """The objects of a bucket under one path, as a `storage.Storage`."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Finds credentials; sends no request yet.

        Args:
          url: gs://BUCKET/PATH.
          timeout_seconds: Limit for all tries of a call that sets none.
          read_seconds: Limit for one answer, and for one piece of an upload.

        Raises:
          ConfigError: The URL is not gs://BUCKET/PATH.
          StorageError: There are no credentials.
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
                f"{EMULATOR}={emulator}: it must begin with http://"
            )
        with self._translated():
            # No call of ours needs a project.
            self._client = cloud_storage.Client(project="none")
        self._bucket = self._client.bucket(bucket)

    def __str__(self) -> str:
        return self._url

    def find(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> list[Entry]:
        """See `storage.Storage`."""

        def once(timeout: tuple[float, float]) -> list[Entry]:
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._full(prefix),
                fields="items(name,size,updated),nextPageToken",
                timeout=timeout,
                retry=None,
            )
            cut = len(self._full(""))
            return [
                Entry(blob.name[cut:], blob.size, blob.updated.timestamp())
                for blob in blobs
            ]

        with self._translated(prefix):
            found = self._persist(once, timeout)
        return sorted(found, key=lambda entry: entry.name)

    def read(self, *names: str, timeout: float | None = None) -> list[bytes]:
        """See `storage.Storage`; several files are read at once."""

        def read_one(name: str) -> bytes:
            def once(timeout: tuple[float, float]) -> bytes:
                return self._blob(name).download_as_bytes(
                    checksum="crc32c", timeout=timeout, retry=None
                )

            with self._translated(name):
                try:
                    return self._persist(once, timeout)
                except api_errors.NotFound:
                    raise FileNotFoundError(f"{name} is not there") from None

        return _in_threads(read_one, names)

    def fetch(self, name: str, *, most_bytes: int) -> bytes:
        """Returns an object's bytes, without the right to list the bucket.

        Args:
          name: Name relative to the root.
          most_bytes: Largest size that is accepted.

        Raises:
          FileNotFoundError: The object or the bucket does not exist.
          StorageError: The object is larger or cannot be read.
        """

        def stat(timeout: tuple[float, float]) -> int:
            blob = self._blob(name)
            blob.reload(timeout=timeout, retry=None)
            return blob.size

        with self._translated(name):
            try:
                size = self._persist(stat)
            except api_errors.NotFound:
                raise FileNotFoundError(f"{name} is not there") from None
        if size > most_bytes:
            raise errors.StorageError(
                f"{self}/{name} has {size:,} bytes, more than {most_bytes:,}"
            )
        return self.read(name)[0]

    def create(
        self, contents: Mapping[str, bytes], *, timeout: float | None = None
    ) -> None:
        """See `storage.Storage`; several files are written at once."""

        def create_one(name: str) -> None:
            faults.reach("data.begin")
            self._create(name, contents[name], timeout)
            faults.reach("data.stored")

        _in_threads(create_one, list(contents))

    def publish(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """See `storage.Storage`."""
        self._create(name, content, timeout)
        faults.reach("manifest.published")

    def replace(
        self, name: str, content: bytes, *, timeout: float | None = None
    ) -> None:
        """Writes a file atomically, replacing any other of that name."""

        def once(timeout: tuple[float, float]) -> None:
            self._blob(name).upload_from_string(
                content, checksum="crc32c", timeout=timeout, retry=None
            )

        with self._translated(name):
            self._persist(once, timeout)

    def move(self, name: str, to: str) -> None:
        """See `storage.Storage`; a bucket can only copy and delete."""

        def stat(timeout: tuple[float, float]) -> Any:
            blob = self._blob(name)
            blob.reload(timeout=timeout, retry=None)
            return blob

        def remove(timeout: tuple[float, float]) -> None:
            # Another process may have published a file of that name meanwhile.
            self._blob(name).delete(
                if_generation_match=generation, timeout=timeout, retry=None
            )

        with self._translated(name):
            try:
                generation = self._persist(stat).generation
            except api_errors.NotFound:
                raise FileNotFoundError(f"{name} is not there") from None
            (content,) = self.read(name)
            self._create(to, content, None)
            faults.reach("quarantine.copied")
            with contextlib.suppress(
                api_errors.NotFound, api_errors.PreconditionFailed
            ):
                self._persist(remove)

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """See `storage.Storage`."""

        def once(timeout: tuple[float, float]) -> None:
            self._blob(name).delete(timeout=timeout, retry=None)

        with self._translated(name), contextlib.suppress(api_errors.NotFound):
            self._persist(once, timeout)

    def check_writable(self) -> None:
        """See `storage.Storage`: writes, reads, lists and removes a file."""
        if emulator := os.environ.get(EMULATOR):
            logging.warning("%s is kept by %s, not by Google", self, emulator)
        name, content = f"probe-{self._id}", self._id.encode()
        try:
            self._create(name, content, PROBE_SECONDS)
            seen = [entry.name for entry in self.find(name)]
            if self.read(name) != [content] or seen != [name]:
                raise errors.StorageError(
                    f"{self}: what is written there is not what is read"
                )
        finally:
            with contextlib.suppress(errors.StorageError):
                self.delete(name)

    def _create(self, name: str, content: bytes, timeout: float | None) -> None:
        """Uploads a file that must not exist yet, and compares its crc32c.

        Raises:
          FileExistsError: A file of another content or writer has that name.
        """
        crc32c = base64.b64encode(
            google_crc32c.value(content).to_bytes(4, "big")
        ).decode()

        def once(timeout: tuple[float, float]) -> None:
            blob = self._blob(name)
            blob.metadata = {"writer": self._id}
            try:
                blob.upload_from_string(
                    content,
                    content_type="application/octet-stream",
                    if_generation_match=0,
                    checksum="crc32c",
                    timeout=timeout,
                    retry=None,
                )
            except (
                api_errors.PreconditionFailed,
                storage_errors.DataCorruption,
            ):
                blob = self._blob(name)
                try:
                    blob.reload(timeout=timeout, retry=None)
                except api_errors.NotFound:
                    # The library has deleted it, as it does with large ones.
                    raise DamagedError("an upload arrived damaged") from None
            if (blob.crc32c, blob.size) == (crc32c, len(content)):
                return  # Perhaps by an earlier try whose answer was lost.
            if (blob.metadata or {}).get("writer") != self._id:
                raise FileExistsError(f"{self}/{name} is there already")
            blob.delete(
                if_generation_match=blob.generation, timeout=timeout, retry=None
            )
            raise DamagedError("an upload arrived with another crc32c")

        with self._translated(name):
            self._persist(once, timeout)

    def _persist(
        self,
        once: Callable[[tuple[float, float]], _T],
        timeout: float | None = None,
    ) -> _T:
        """Calls a function until it succeeds, fails for good or time is up.

        Args:
          once: Function of two limits in seconds: to connect, and to answer.
          timeout: Limit for all tries, in seconds.
        """
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds

        def within_deadline() -> _T:
            left = max(0.1, deadline - time.monotonic())
            return once(
                (min(left, _CONNECT_SECONDS), min(left, self._read_seconds))
            )

        reported = False

        def report(error: Exception) -> None:
            nonlocal reported
            if not reported and gcs_errors.is_transient(error):
                logging.warning(
                    "%s: %s; tried again", self, gcs_errors.one_line(error)
                )
            reported = True

        retry = api_retry.Retry(
            predicate=gcs_errors.is_transient,
            initial=_FIRST_WAIT_SECONDS,
            maximum=_LONGEST_WAIT_SECONDS,
            timeout=seconds,
            on_error=report,
        )
        return retry(within_deadline)()

    def _translated(
        self, name: str = ""
    ) -> contextlib.AbstractContextManager[None]:
        """Translates the client library's errors; see `gcs_errors`."""
        return gcs_errors.translate_errors(
            f"{self}/{name}" if name else str(self), bucket=self._bucket_name
        )

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name


def _in_threads(call: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Returns each name's result; raises the first failure, if any.

    The threads are daemons, unlike those of concurrent.futures: an upload that
    hangs must not keep a preempted process from its exit.
    """
    results: dict[str, _T] = {}
    failures: list[BaseException] = []
    left = list(reversed(names))
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                if not left:
                    return
                name = left.pop()
            try:
                results[name] = call(name)
            except BaseException as error:
                failures.append(error)

    threads = [
        threading.Thread(target=work, name=f"bucket-{i}", daemon=True)
        for i in range(min(_THREADS, len(names)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[name] for name in names]
