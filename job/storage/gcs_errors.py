"""Errors of Google Cloud Storage: which may pass, and what to do about them.

    with translate_errors("gs://bucket/runs/a/result.json", bucket="bucket"):
        ...                      # raises StorageError or UnavailableError

Imports no TensorFlow.
"""

import contextlib
import http.client
import re
from collections.abc import Iterator

import requests
import urllib3
from google.api_core import exceptions as api_errors
from google.auth import exceptions as auth_errors
from google.cloud.storage import exceptions as storage_errors

from job import errors

# https://cloud.google.com/storage/docs/retry-strategy
_TRANSIENT_CODES = frozenset({408, 429, 500, 502, 503, 504})


class DamagedError(Exception):
    """An upload arrived with other bytes; the object was deleted again."""


_TRANSIENT = (
    ConnectionError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    http.client.HTTPException,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    storage_errors.DataCorruption,
    DamagedError,
)


def is_transient(error: BaseException) -> bool:
    """Returns whether a later try may succeed."""
    if isinstance(error, auth_errors.RefreshError):
        # Raised too where the metadata server does not answer.
        cause = error.args[0] if error.args else None
        return error.retryable or (
            isinstance(cause, auth_errors.TransportError)
            and is_transient(cause)
        )
    if isinstance(error, auth_errors.TransportError):
        cause, *rest = error.args or (None,)
        if status := getattr(rest[0], "status", None) if rest else None:
            return status in _TRANSIENT_CODES
        return not isinstance(cause, BaseException) or is_transient(cause)
    if isinstance(error, api_errors.BadRequest):
        # The server compared checksums: the upload was damaged on its way.
        return "crc32c" in str(error).lower()
    if isinstance(error, api_errors.GoogleAPICallError):
        return error.code in _TRANSIENT_CODES
    if isinstance(error, storage_errors.InvalidResponse):
        return error.response.status_code in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT)


def one_line(error: BaseException) -> str:
    """Returns an error's text in one line, without addresses of objects."""
    text = re.sub(r"<?[\w.]* object at 0x[0-9a-f]+>?:? ?", "", str(error))
    cause = re.search(r"Caused by (.*)", text)  # It follows a long URL.
    text = cause[1] if cause else f"{type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text)[:300]


@contextlib.contextmanager
def translate_errors(where: str, *, bucket: str) -> Iterator[None]:
    """Re-raises the client library's errors as StorageError, with a fix.

    FileExistsError, FileNotFoundError and the job's own errors pass.

    Args:
      where: URL of the object or folder, for messages.
      bucket: Name of the bucket.

    Raises:
      StorageError: The bucket does not exist, access is denied, or the request
        failed for good.
      UnavailableError: No try succeeded in time; a later one may.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError, errors.JobError):
        raise
    except auth_errors.DefaultCredentialsError:
        raise errors.StorageError(
            f"{where}: no credentials were found; on GKE bind the pod's"
            " service account by Workload Identity, elsewhere run"
            " `gcloud auth application-default login`"
        ) from None
    except api_errors.NotFound:
        raise errors.StorageError(
            f"{where}: the bucket {bucket!r} does not exist;"
            f" `gcloud storage buckets create gs://{bucket}` makes it"
        ) from None
    except (api_errors.Forbidden, api_errors.Unauthorized) as error:
        raise errors.StorageError(
            f"{where}: not allowed ({one_line(error)}); the job's account"
            f" needs roles/storage.objectUser on bucket {bucket!r}"
        ) from None
    except auth_errors.RefreshError as error:
        raise _kind(error)(
            f"{where}: the credentials are refused ({one_line(error)})"
        ) from None
    except api_errors.RetryError as error:
        raise errors.UnavailableError(
            f"{where}: no success in time; the last try:"
            f" {one_line(error.cause or error)}"
        ) from None
    except (
        api_errors.GoogleAPICallError,
        auth_errors.GoogleAuthError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise _kind(error)(f"{where}: {one_line(error)}") from None


def _kind(error: BaseException) -> type[errors.StorageError]:
    return (
        errors.UnavailableError if is_transient(error) else errors.StorageError
    )
