"""Files in a bucket of Google Cloud Storage.

    storage = Bucket("gs://bucket/runs/a/checkpoints")
    storage.check_writable()     # raises StorageError, saying what would do

Through google-cloud-storage, with Application Default Credentials (on GKE:
Workload Identity); `STORAGE_EMULATOR_HOST` names another endpoint. TensorFlow's
own gs:// sends no checksum and no precondition and cannot be given a deadline.

An upload asks that the name be free (ifGenerationMatch=0), declares the
crc32c, and compares what the server says it has. Tries are repeated here, and
not in the library: a 412 may mean that an earlier try of ours has succeeded
unheard, which only its sender can tell. Imports no TensorFlow.
"""

import base64
import contextlib
import http.client
import os
import posixpath
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import google_crc32c
import requests
import urllib3
from absl import logging
from google.api_core import exceptions as api_errors
from google.api_core import retry as api_retry
from google.auth import exceptions as auth_errors
from google.cloud import storage as cloud_storage
from google.cloud.storage import exceptions as storage_errors

from job import errors
from job.storage import Entry, faults

EMULATOR = "STORAGE_EMULATOR_HOST"

# For all tries of a call, where the caller sets no time.
_TIMEOUT_SECONDS = 120.0
# For a bucket that is there and ours; a person waits.
PROBE_SECONDS = 15.0
# For one answer, and for a connection to take another piece of an upload.
_READ_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
# Between two tries: doubled up to the longest, with jitter.
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 8.0
_THREADS = 4

# https://cloud.google.com/storage/docs/naming-buckets
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")

# https://cloud.google.com/storage/docs/retry-strategy
_PASSING_CODES = frozenset({408, 429, 500, 502, 503, 504})
_PASSING = (
    ConnectionError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    http.client.HTTPException,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    storage_errors.DataCorruption,
)

_T = TypeVar("_T")


class _DamagedError(Exception):
    """An upload of ours arrived as something else; it is removed again."""


def split_url(url: str) -> tuple[str, str]:
    """Returns bucket and path of gs://BUCKET/PATH.

    Raises:
      ConfigError: it is none, or its path could lead elsewhere.
    """
    match = _URL.fullmatch(url)
    path = (match[2] or "").rstrip("/") if match else ""
    parts = path.split("/") if path else []
    if not match or any(part in ("", ".", "..") for part in parts):
        raise errors.ConfigError(
            f"{url} is no place in a bucket; it must be gs://BUCKET/PATH"
        )
    return match[1], path


class Bucket:
    """A bucket's part under one path as a `storage.Storage`."""

    def __init__(
        self, url: str, *, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        """Finds credentials; the bucket is not asked for anything yet.

        Args:
          url: gs://BUCKET/PATH.
          timeout_seconds: for all tries of a call, where it is given none.

        Raises:
          ConfigError: the URL is none.
          StorageError: there are no credentials.
        """
        bucket, self._path = split_url(url)
        self._url = f"gs://{posixpath.join(bucket, self._path)}"
        self._bucket_name = bucket
        self._id = uuid.uuid4().hex[:12]
        self._timeout = timeout_seconds
        emulator = os.environ.get(EMULATOR, "")
        if emulator and "://" not in emulator:
            raise errors.StorageError(
                f"{EMULATOR}={emulator}: it must begin with http://"
            )
        with self._explained(url):
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

        with self._explained(prefix):
            found = self._persist(once, timeout)
        return sorted(found, key=lambda entry: entry.name)

    def read(self, *names: str, timeout: float | None = None) -> list[bytes]:
        """See `storage.Storage`; several files are read at once."""

        def read_one(name: str) -> bytes:
            def once(timeout: tuple[float, float]) -> bytes:
                return self._blob(name).download_as_bytes(
                    checksum="crc32c", timeout=timeout, retry=None
                )

            with self._explained(name):
                try:
                    return self._persist(once, timeout)
                except api_errors.NotFound:
                    raise FileNotFoundError(f"{name} is not there") from None

        return _in_threads(read_one, names)

    def fetch(self, name: str, *, most_bytes: int) -> bytes:
        """Returns an object that somebody else keeps: images, weights.

        It needs the right to read it, and none to list what is beside it.

        Args:
          name: relative to the root.
          most_bytes: it may have.

        Raises:
          FileNotFoundError: it is not there, or the bucket is not.
          StorageError: it is larger, or cannot be read.
        """

        def stat(timeout: tuple[float, float]) -> int:
            blob = self._blob(name)
            blob.reload(timeout=timeout, retry=None)
            return blob.size

        with self._explained(name):
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
        """Writes a file, whole, at once, in the place of any other."""

        def once(timeout: tuple[float, float]) -> None:
            self._blob(name).upload_from_string(
                content, checksum="crc32c", timeout=timeout, retry=None
            )

        with self._explained(name):
            self._persist(once, timeout)

    def move(self, name: str, to: str) -> None:
        """See `storage.Storage`; a bucket knows a copy and a removal only."""

        def stat(timeout: tuple[float, float]) -> Any:
            blob = self._blob(name)
            blob.reload(timeout=timeout, retry=None)
            return blob

        def remove(timeout: tuple[float, float]) -> None:
            # Not what another process may have published there meanwhile.
            self._blob(name).delete(
                if_generation_match=generation, timeout=timeout, retry=None
            )

        with self._explained(name):
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

        with self._explained(name), contextlib.suppress(api_errors.NotFound):
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
        """Uploads what must not be there yet, and compares its crc32c.

        Raises:
          FileExistsError: something else has that name.
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
                    # Of a large one the library has removed it already.
                    raise _DamagedError("an upload arrived damaged") from None
            if (blob.crc32c, blob.size) == (crc32c, len(content)):
                return  # Also by an earlier try, whose answer was lost.
            if (blob.metadata or {}).get("writer") != self._id:
                raise FileExistsError(f"{self}/{name} is there already")
            blob.delete(
                if_generation_match=blob.generation, timeout=timeout, retry=None
            )
            raise _DamagedError("an upload arrived with another crc32c")

        with self._explained(name):
            self._persist(once, timeout)

    def _persist(
        self,
        once: Callable[[tuple[float, float]], _T],
        timeout: float | None = None,
    ) -> _T:
        """Calls until it succeeds, fails for good, or the time is over.

        Args:
          once: is given the seconds to connect and to wait for an answer.
          timeout: for all tries, in seconds.
        """
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds

        def within_deadline() -> _T:
            left = max(0.1, deadline - time.monotonic())
            return once((min(left, _CONNECT_SECONDS), min(left, _READ_SECONDS)))

        reported = False

        def report(error: Exception) -> None:
            nonlocal reported
            if not reported and _may_pass(error):
                logging.warning("%s: %s; tried again", self, _short(error))
            reported = True

        retry = api_retry.Retry(
            predicate=_may_pass,
            initial=_FIRST_WAIT_SECONDS,
            maximum=_LONGEST_WAIT_SECONDS,
            timeout=seconds,
            on_error=report,
        )
        return retry(within_deadline)()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns the libraries' errors into ours, saying what would do."""
        where = f"{self}/{what}" if what and "://" not in what else str(self)
        try:
            yield
        except (FileExistsError, FileNotFoundError, errors.JobError):
            raise
        except auth_errors.DefaultCredentialsError:
            raise errors.StorageError(
                f"{self._url}: no credentials were found; on GKE bind the pod's"
                " service account by Workload Identity, elsewhere run"
                " `gcloud auth application-default login`"
            ) from None
        except api_errors.NotFound:
            raise errors.StorageError(
                f"{where}: there is no bucket {self._bucket_name!r};"
                f" `gcloud storage buckets create gs://{self._bucket_name}`"
                " makes it"
            ) from None
        except (api_errors.Forbidden, api_errors.Unauthorized) as error:
            raise errors.StorageError(
                f"{where}: not allowed ({_short(error)}); the job's account"
                " needs roles/storage.objectUser on bucket"
                f" {self._bucket_name!r}"
            ) from None
        except auth_errors.RefreshError as error:
            kind = (
                errors.UnavailableError
                if _may_pass(error)
                else errors.StorageError
            )
            raise kind(
                f"{where}: the credentials are refused ({_short(error)})"
            ) from None
        except api_errors.RetryError as error:
            raise errors.UnavailableError(
                f"{where}: no success in time; the last try:"
                f" {_short(error.cause or error)}"
            ) from None
        except (
            api_errors.GoogleAPICallError,
            auth_errors.GoogleAuthError,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            kind = (
                errors.UnavailableError
                if _may_pass(error)
                else errors.StorageError
            )
            raise kind(f"{where}: {_short(error)}") from None

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name


def _may_pass(error: BaseException) -> bool:
    """Says whether another try may have another outcome."""
    if isinstance(error, auth_errors.RefreshError):
        # What a metadata server that does not answer comes as.
        cause = error.args[0] if error.args else None
        return error.retryable or (
            isinstance(cause, auth_errors.TransportError) and _may_pass(cause)
        )
    if isinstance(error, auth_errors.TransportError):
        cause, *rest = error.args or (None,)
        if status := getattr(rest[0], "status", None) if rest else None:
            return status in _PASSING_CODES
        return not isinstance(cause, BaseException) or _may_pass(cause)
    if isinstance(error, api_errors.BadRequest):
        # What arrived is not what was sent: the server compares.
        return "crc32c" in str(error).lower()
    if isinstance(error, api_errors.GoogleAPICallError):
        return error.code in _PASSING_CODES
    if isinstance(error, storage_errors.InvalidResponse):
        return error.response.status_code in _PASSING_CODES
    return isinstance(error, (*_PASSING, _DamagedError))


def _short(error: BaseException) -> str:
    """Returns an error's text in one line, without addresses of objects."""
    text = re.sub(r"<?[\w.]* object at 0x[0-9a-f]+>?:? ?", "", str(error))
    cause = re.search(r"Caused by (.*)", text)  # Behind a long URL.
    text = cause[1] if cause else f"{type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text)[:300]


def _in_threads(call: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
    """Returns each name's result; raises the first failure, if any.

    The threads are daemons, other than those of concurrent.futures: an upload
    that hangs must not keep a preempted process from its exit.
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
