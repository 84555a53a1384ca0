"""Fetches the binary version's archive from Google Cloud Storage.

    path = fetch("gs://bucket/cifar-10-binary.tar.gz", folder)

As the environment's own account: no key is ever asked for.
"""

import pathlib

from job import errors
from job.data import binary

_SECONDS = 60
# The official archive has 170,052,171 bytes.
_MOST_BYTES = 2**30


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads an archive; returns where it is.

    Args:
      url: gs://BUCKET/OBJECT, or the "folder" that holds it under its official
        name.
      folder: where to put it.

    Raises:
      DataError: there is no such object, no right to read it, no way to it, or
        it came damaged.
    """
    # Slow to import, and of use to this line only.
    from google.api_core import exceptions as api_errors
    from google.auth import exceptions as auth_errors
    from google.cloud import storage

    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not name.endswith(".gz"):
        name = f"{name.rstrip('/')}/{binary.ARCHIVE}".lstrip("/")
    path = folder / binary.ARCHIVE
    try:
        blob = storage.Client().bucket(bucket).get_blob(name, timeout=_SECONDS)
        if blob is None:
            raise errors.DataError(
                f"config.data.dir={url}: gs://{bucket}/{name} is not there;"
                f" of a bucket, the {binary.ARCHIVE} is read"
            )
        if blob.size > _MOST_BYTES:
            raise errors.DataError(
                f"config.data.dir={url}: {blob.size:,} bytes are no CIFAR-10"
            )
        blob.download_to_filename(
            str(path), timeout=_SECONDS, checksum="crc32c"
        )
    except (
        api_errors.GoogleAPIError,
        auth_errors.GoogleAuthError,
        OSError,
        ValueError,
    ) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise errors.DataError(
            f"config.data.dir={url} cannot be downloaded"
            f" ({type(error).__name__}: {reason})"
        ) from None
    return path
