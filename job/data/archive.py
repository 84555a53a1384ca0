"""Files of one version of CIFAR-10, from their folder or their .tar.gz.

The archive is never extracted. Its checksum is verified, then members of known
names and sizes are read into memory.

    found = find(version, path)               # folder or archive at a path
    contents = read(version, found, poll=...)  # {name: bytes}
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable

from job import errors
from job.storage import files, reader

# The official archives have 170 MB.
_MAX_ARCHIVE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Version:
    """Published version of CIFAR-10.

    Attributes:
      folder: Name of the folder in the archive.
      archive: Name of the archive.
      sha256: Checksum of the archive, hexadecimal.
      train_files: Names of the files of the training images, in order.
      test_files: Names of the files of the test images, in order.
      least_bytes: Size of the smallest file.
      most_bytes: Upper bound of the size of a file.
    """

    folder: str
    archive: str
    sha256: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    least_bytes: int
    most_bytes: int

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return self.train_files + self.test_files


def find(version: Version, path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of files or the archive at `path`, or None.

    Args:
      version: Version to look for.
      path: Path of the folder, of its parent, of the archive or of its folder.
        Any file counts as an archive, for which `read` may raise DataError.
    """
    if path.is_file():
        return path
    for folder in (path, path / version.folder):
        if any((folder / name).exists() for name in version.files):
            return folder
    archive = path / version.archive
    return archive if archive.is_file() else None


def read(
    version: Version,
    path: pathlib.Path,
    archive_sha256: str = "",
    poll: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """Reads all files into memory.

    Args:
      version: Version of the files.
      path: Folder or archive that `find` returned.
      archive_sha256: Checksum of the archive, hexadecimal. If "", that of the
        official archive.
      poll: Function called between two files. Its exceptions propagate.

    Returns:
      Contents by file name.

    Raises:
      DataError: A file is missing or has the wrong size, two files are equal,
        or the archive has another checksum or irregular members.
    """
    with files.translate_errors(path, kind=errors.DataError):
        if path.is_dir():
            contents = _read_folder(version, path, poll)
        else:
            sha256 = archive_sha256 or version.sha256
            contents = _read_archive(version, path, sha256, poll)
    # The test set must not consist of training images.
    for one, other in itertools.combinations(contents, 2):
        if contents[one] == contents[other]:
            raise errors.DataError(
                f"{path}: {other} is a copy of {one}. Fix: download"
                f" {version.archive} again"
            )
    return contents


def _read_folder(
    version: Version, folder: pathlib.Path, poll: Callable[[], None]
) -> dict[str, bytes]:
    contents = {}
    for name in version.files:
        poll()
        path = folder / name
        content = reader.read_bytes(
            path, max_bytes=2 * version.most_bytes, name=f"{path}: the file"
        )
        if content is None:
            raise errors.DataError(
                f"{path}: the file is missing. Fix: put all files into one"
                f" folder, {', '.join(version.files)}"
            )
        _check_size(version, f"{path}: the file", len(content))
        contents[name] = content
    return contents


def _read_archive(
    version: Version,
    path: pathlib.Path,
    sha256: str,
    poll: Callable[[], None],
) -> dict[str, bytes]:
    with open(path, "rb", opener=files.open_at_once) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_ARCHIVE_BYTES:
            raise errors.DataError(
                f"{path}: the file has {size:,} bytes, more than"
                f" {_MAX_ARCHIVE_BYTES:,}. Fix: download"
                f" {version.archive} again"
            )
        start = file.read(512)
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise errors.DataError(
            f"{path}: {_describe(start)} sha256 is {found}, not"
            f" {sha256.lower()}. Fix: download {version.archive} again, or set"
            f" --config.data.archive_sha256={found} for your own archive"
        )
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                poll()
                name = pathlib.PurePosixPath(member.name).name
                if name not in version.files:
                    continue
                if not member.isreg() or name in contents:
                    raise errors.DataError(
                        f"{path}: the member {member.name} is not a single"
                        f" regular file. Fix: download {version.archive} again"
                    )
                _check_size(
                    version, f"{path}: the member {member.name}", member.size
                )
                content = tar.extractfile(member)
                assert content is not None  # A regular file has contents.
                contents[name] = content.read(version.most_bytes)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise errors.DataError(
            f"{path}: the file is not a .tar.gz ({error}). Fix: download"
            f" {version.archive} again"
        ) from None
    for name in version.files:
        if name not in contents:
            raise errors.DataError(
                f"{path}: the archive lacks {name}. Fix: download"
                f" {version.archive} again"
            )
    return contents


def _describe(start: bytes) -> str:
    if start[:2] == b"\x1f\x8b":
        return "the"
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return "the file is a web page, and its"
    return "the file is not a gzip file, and its"


def _check_size(version: Version, subject: str, size: int) -> None:
    if not version.least_bytes <= size <= version.most_bytes:
        expected = f"{version.least_bytes:,}"
        if version.most_bytes > version.least_bytes:
            expected += f" to {version.most_bytes:,}"
        raise errors.DataError(
            f"{subject} has {size:,} bytes, not {expected}. Fix: download"
            f" {version.archive} again"
        )
