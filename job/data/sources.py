"""CIFAR-10 from one of four sources, named or found by its files.

    load("auto", "/data/cifar10")      # as published, or tensorflow-datasets
    load("synthetic", "")              # computed, not read

A named source is used, or DataError is raised. No source replaces another one.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable

from absl import logging

from job import errors
from job.data import (
    archive,
    binary,
    dataset,
    python_version,
    synthetic,
    tfds_source,
)
from job.storage import download, files

# The official archives have 170,052,171 and 170,498,071 bytes.
_MOST_BYTES = 2**30

# Modules of the published versions, in the order in which auto looks for them.
_PUBLISHED = {"binary": binary, "python": python_version}


def class_names(source: str) -> tuple[str, ...]:
    """Returns the class names of a source, in the order of the labels."""
    if source == "synthetic":
        return tuple(synthetic.SHAPES)
    return dataset.CLASS_NAMES


def load(
    source: str,
    data_dir: str = "",
    *,
    archive_sha256: str = "",
    synthetic_train_images: int = 8000,
    synthetic_test_images: int = 2000,
    seed: int = 0,
    download: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Loads a data set into memory (184 MB for CIFAR-10).

    Args:
      source: Name of the source, tfds (downloaded if absent), binary, python,
        synthetic, or auto for the one that `data_dir` contains. auto means tfds
        if `data_dir` is "".
      data_dir: Folder of the binary or Python version, its parent, its .tar.gz,
        a TFDS folder, or the gs:// path of the .tar.gz or its folder. If "",
        TFDS' own folder. binary and python need a value, synthetic none.
      archive_sha256: Checksum of the .tar.gz, hexadecimal. If "", that of the
        official archive.
      synthetic_train_images: Number of training images of the synthetic source.
      synthetic_test_images: Number of its test images.
      seed: Seed of the synthetic source.
      download: Whether auto means tfds for a folder that is absent or empty.
      poll: Function called between two files or batches. Its exceptions
        propagate.

    Raises:
      DataError: The data is absent, unreadable or damaged.
    """
    if source == "synthetic":
        return synthetic.draw(
            synthetic_train_images, synthetic_test_images, seed, poll
        )
    if not data_dir:
        if source in _PUBLISHED:
            name = _PUBLISHED[source].VERSION.archive
            raise errors.DataError(
                f"--config.data.source={source}: --config.data.dir is missing."
                f" Fix: set --config.data.dir to the folder or {name}"
            )
        return tfds_source.read(None, download=True, poll=poll)

    if data_dir.startswith("gs://"):
        if source == "tfds":
            raise errors.DataError(
                f"--config.data.dir={data_dir}: --config.data.source=tfds"
                " cannot read a bucket. Fix: use --config.data.source=auto,"
                f" with {binary.VERSION.archive} in the bucket"
            )
        return _read_from_bucket(source, data_dir, archive_sha256, poll)

    with files.translate_errors(
        f"--config.data.dir={data_dir}", kind=errors.DataError
    ):
        path = pathlib.Path(os.path.expanduser(data_dir))
        if source == "auto" and download and tfds_source.is_unused(path):
            source = "tfds"
        return _read_from_folder(source, data_dir, archive_sha256, poll)


def _read_from_folder(
    source: str, data_dir: str, archive_sha256: str, poll: Callable[[], None]
) -> dataset.Dataset:
    """Loads the data set from a local folder or file; see `load`."""
    path = pathlib.Path(os.path.expanduser(data_dir))
    if source == "tfds" and not tfds_source.find(path):
        # The source was named, so TFDS downloads to this folder.
        return tfds_source.read(path, download=True, poll=poll)
    if not path.exists():
        raise errors.DataError(
            f"--config.data.dir={data_dir}: the path does not exist. Fix:"
            " correct it, or download CIFAR-10 with make fetch DATA=data"
        )
    known_files = {x for m in _PUBLISHED.values() for x in m.VERSION.files}
    if path.is_file() and path.name in known_files:
        raise errors.DataError(
            f"--config.data.dir={data_dir}: one file of the data set is not"
            f" enough. Fix: use --config.data.dir={path.parent}"
        )
    for name in _published(source, path.name if path.is_file() else ""):
        module = _PUBLISHED[name]
        found = archive.find(module.VERSION, path)
        if found:
            logging.info("Found the %s version of CIFAR-10: %s", name, found)
            return module.read(found, archive_sha256, poll)
    found = tfds_source.find(path) if source in ("auto", "tfds") else None
    if found:
        logging.info("Found the tensorflow-datasets folder: %s", found)
        return tfds_source.read(found, poll=poll)
    known = [
        f"{module.VERSION.folder} or {module.VERSION.archive}"
        for name, module in _PUBLISHED.items()
        if source in ("auto", name)
    ]
    if source == "auto":
        known.append(f"the {tfds_source.NAME} folder of tensorflow-datasets")
    raise errors.DataError(
        f"--config.data.dir={data_dir}: CIFAR-10 was not found. Fix: choose a"
        f" folder with {', or '.join(known)}"
    )


def _published(source: str, file: str = "") -> list[str]:
    """Returns the names of the published versions to look for.

    Args:
      source: Name of the source; see `load`.
      file: Name of an archive. Its version is the one whose official name it
        has, else the binary one.
    """
    if source in _PUBLISHED:
        return [source]
    if source != "auto":
        return []
    if not file:
        return list(_PUBLISHED)
    is_python = file == python_version.VERSION.archive
    return ["python" if is_python else "binary"]


def _read_from_bucket(
    source: str, url: str, archive_sha256: str, poll: Callable[[], None]
) -> dataset.Dataset:
    """Reads the archive of a published version from a bucket.

    Args:
      source: Name of the version, binary or python, or auto for the version of
        the archive's official name. auto means binary for a folder.
      url: URL of the archive, or of the folder that contains it under its
        official name.
      archive_sha256: Checksum of the archive; see `archive.read`.
      poll: Function called between two files; see `archive.read`.
    """
    (name,) = _published(source, pathlib.PurePosixPath(url).name)
    module = _PUBLISHED[name]
    file = url
    if not url.endswith(".gz"):
        file = f"{url.rstrip('/')}/{module.VERSION.archive}"
    content = download.fetch(
        file, most_bytes=_MOST_BYTES, what=f"--config.data.dir={url}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, module.VERSION.archive)
        path.write_bytes(content)
        del content
        try:
            return module.read(path, archive_sha256, poll)
        except errors.DataError as error:
            # The temporary file is about to be deleted.
            raise errors.DataError(str(error).replace(str(path), url)) from None
