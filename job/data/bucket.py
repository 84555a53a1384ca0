"""Fetches the binary version's archive from Google Cloud Storage.

    path = fetch("gs://bucket/cifar-10-binary.tar.gz", folder)

As the environment's own account: no key is ever asked for.
"""

import pathlib
import posixpath

from job import errors
from job.data import binary

# The official archive has 170,052,171 bytes.
_MOST_BYTES = 2**30


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads an archive; returns where it is.

    Args:
      url: gs://BUCKET/OBJECT, or the "folder" that holds it under its official
        name.
      folder: where to put it.

    Raises:
      ConfigError: that is no URL of a bucket.
      DataError: there is no such object, or no right to read it.
      UnavailableError: it could not be had in time.
    """
    # Slow to import, and of use to this line only.
    from job.storage import gcs

    parent, name = url.rstrip("/"), binary.ARCHIVE
    if url.endswith(".gz"):
        parent, name = posixpath.split(url)
    where = f"config.data.dir={url}"
    try:
        content = gcs.Bucket(parent).fetch(name, most_bytes=_MOST_BYTES)
    except FileNotFoundError:
        raise errors.DataError(
            f"{where}: {parent}/{name} is not there; of a bucket, the"
            f" {binary.ARCHIVE} is read"
        ) from None
    except errors.UnavailableError as error:
        raise errors.UnavailableError(f"{where}: {error}") from None
    except errors.StorageError as error:
        raise errors.DataError(f"{where} cannot be read: {error}") from None
    path = folder / binary.ARCHIVE
    path.write_bytes(content)
    return path
