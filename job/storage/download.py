"""Downloads single objects that others keep in a bucket: images, weights.

    fetch("gs://bucket/x.h5", most_bytes=2**28, what="model.weights=...")

Uses the credentials of the environment. Imports no TensorFlow.
"""

import posixpath

from job import errors


def fetch(url: str, *, most_bytes: int, what: str) -> bytes:
    """Downloads an object.

    It takes the right to read the object, and none to list its neighbors.

    Args:
      url: gs://BUCKET/OBJECT.
      most_bytes: Largest size that is accepted.
      what: Flag or config field that names the object, with its value; the
        subject of error messages.

    Raises:
      ConfigError: The URL is not that of an object in a bucket.
      DataError: The object does not exist, is too large or cannot be read.
      UnavailableError: The bucket did not answer in time; a later try may
        succeed.
    """
    # Slow to import, and used by this function only.
    from job.storage import gcs

    folder, name = posixpath.split(url)
    try:
        return gcs.Bucket(folder).read(name, most_bytes=most_bytes)
    except FileNotFoundError:
        raise errors.DataError(f"{what}: {url} does not exist") from None
    except errors.UnavailableError as error:
        raise errors.UnavailableError(f"{what}: {error}") from None
    except errors.StorageError as error:
        raise errors.DataError(f"{what}: cannot be read ({error})") from None
