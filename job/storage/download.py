"""Download of single objects from a bucket, such as images or weights.

    fetch(url, most_bytes=2**28, what=f"--config.model.weights={url}")

Uses the credentials of the environment. Imports no TensorFlow.
"""

import posixpath

from job import errors


def fetch(url: str, *, most_bytes: int, what: str) -> bytes:
    """Downloads an object.

    The account needs permission to read the object, but not to list the bucket.

    Args:
      url: URL of the object, gs://BUCKET/OBJECT.
      most_bytes: Largest accepted size in bytes.
      what: Flag or config field that names the object, with its value, for
        error messages.

    Raises:
      ConfigError: The URL does not name an object in a bucket.
      DataError: The object does not exist, is too large or cannot be read.
      UnavailableError: The bucket did not answer in time.
    """
    # The import is slow, and only this function needs it.
    from job.storage import gcs

    folder, name = posixpath.split(url)
    try:
        return gcs.Bucket(folder).read(name, most_bytes=most_bytes)
    except FileNotFoundError:
        raise errors.DataError(
            f"{what}: {url} does not exist. Fix: correct the URL"
        ) from None
    except errors.UnavailableError as error:
        raise errors.UnavailableError(f"{what}: {error}") from None
    except errors.StorageError as error:
        raise errors.DataError(
            f"{what}: the object cannot be read ({error})"
        ) from None
