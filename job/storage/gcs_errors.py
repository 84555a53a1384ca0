"""Errors of Google Cloud Storage, their kinds and fixes.

    with translate_errors("gs://bucket/runs/a/result.json", bucket="bucket"):
        ...                      # raises StorageError or UnavailableError

Imports no TensorFlow.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import requests
import urllib3
from google.api_core import exceptions as api_errors
from google.auth import exceptions as auth_errors
from google.cloud.storage import exceptions as storage_errors

from job import errors


def is_transient(error: BaseException) -> bool:
    """Returns whether a later try may succeed.

    The library retries the usual errors until its deadline; see `RetryError`
    below. It does not retry the errors of this function.
    """
    if isinstance(error, api_errors.BadRequest):
        # The server compared checksums of an upload damaged in transit.
        return "crc32c" in str(error).lower()
    if isinstance(error, auth_errors.RefreshError):
        # This is raised too if the metadata server does not answer.
        cause = error.args[0] if error.args else None
        if not isinstance(cause, auth_errors.TransportError):
            return error.retryable
        status = getattr(cause.args[-1], "status", 503)
        return status >= 500 or status in (408, 429)
    return isinstance(error, storage_errors.DataCorruption)


def one_line(error: BaseException) -> str:
    """Returns an error's text in one line, without addresses of objects."""
    text = re.sub(r"<?[\w.]* object at 0x[0-9a-f]+>?:? ?", "", str(error))
    cause = re.search(r"Caused by (.*)", text)  # The cause follows a long URL.
    text = cause[1] if cause else f"{type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text)[:300]


@contextlib.contextmanager
def translate_errors(where: str, *, bucket: str) -> Iterator[None]:
    """Re-raises the client library's errors as StorageError, with a fix.

    FileExistsError, FileNotFoundError and the job's own errors propagate.

    Args:
      where: URL of the object or folder, for messages.
      bucket: Name of the bucket.

    Raises:
      StorageError: The bucket does not exist, access is denied, or the request
        failed permanently.
      UnavailableError: No try succeeded in time.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError, errors.JobError):
        raise
    except auth_errors.DefaultCredentialsError:
        if _is_pod_without_key():
            raise errors.UnavailableError(
                f"{where}: no credentials were found. In a new pod of GKE the"
                " metadata server may be slow, and the next attempt succeeds."
                " Fix: if none does, bind the pod's service account by Workload"
                " Identity"
            ) from None
        raise errors.StorageError(
            f"{where}: no credentials were found. Fix: on GKE bind the pod's"
            " service account by Workload Identity; elsewhere run"
            " `gcloud auth application-default login`"
        ) from None
    except api_errors.NotFound:
        raise errors.StorageError(
            f"{where}: the bucket {bucket!r} does not exist. Fix: run"
            f" `gcloud storage buckets create gs://{bucket}`"
        ) from None
    except (api_errors.Forbidden, api_errors.Unauthorized) as error:
        raise errors.StorageError(
            f"{where}: access is denied ({one_line(error)}). Fix: grant the"
            f" job's account roles/storage.objectUser on the bucket {bucket!r}"
        ) from None
    except auth_errors.RefreshError as error:
        raise _kind(error)(
            f"{where}: the credentials are refused ({one_line(error)}). Fix:"
            " renew them"
        ) from None
    except api_errors.RetryError as error:
        raise errors.UnavailableError(
            f"{where}: no request succeeded in time"
            f" ({one_line(error.cause or error)})"
        ) from None
    except (
        api_errors.GoogleAPICallError,
        storage_errors.DataCorruption,
        auth_errors.GoogleAuthError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise _kind(error)(f"{where}: {one_line(error)}") from None


def _is_pod_without_key() -> bool:
    """Returns whether credentials can come from the metadata server only."""
    given = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return "KUBERNETES_SERVICE_HOST" in os.environ and not given


def _kind(error: BaseException) -> type[errors.StorageError]:
    return (
        errors.UnavailableError if is_transient(error) else errors.StorageError
    )
