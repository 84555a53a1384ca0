"""Loads CIFAR-10 from one of three sources, chosen by what a path holds.

    load("auto", "/data/cifar10")      # binary version or tensorflow-datasets
    load("synthetic", "")              # computed, not read

A source that is named is used, or the run ends with DataError: none stands in
for another one.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable

from absl import logging

from job import errors
from job.data import binary, dataset, synthetic, tfds_source
from job.storage import download, files

# The official archive has 170,052,171 bytes.
_MOST_BYTES = 2**30


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
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Loads a data set into memory (CIFAR-10: 184 MB).

    Args:
      source: tfds (downloaded if absent), binary, synthetic, or auto: binary or
        tfds, whichever `data_dir` contains; tfds if `data_dir` is "".
      data_dir: Folder of the binary version, its parent, its .tar.gz, a TFDS
        folder, or gs:// of the .tar.gz or its folder. If "", TFDS' own folder;
        binary needs a value, synthetic none.
      archive_sha256: Checksum of the .tar.gz, hexadecimal. If "", that of the
        official archive.
      synthetic_train_images: Number of training images of the synthetic source.
      synthetic_test_images: Number of its test images.
      seed: Seed of the synthetic source.
      poll: Called between two files or batches; its exceptions end the
        function.

    Raises:
      DataError: The data is absent, unreadable or damaged.
    """
    if source == "synthetic":
        return synthetic.draw(
            synthetic_train_images, synthetic_test_images, seed, poll
        )
    if not data_dir:
        if source == "binary":
            raise errors.DataError(
                "config.data.source=binary needs config.data.dir: the folder"
                f" or the {binary.ARCHIVE}"
            )
        return tfds_source.read(None, download=True, poll=poll)

    if data_dir.startswith("gs://"):
        if source == "tfds":
            raise errors.DataError(
                f"config.data.dir={data_dir}: of a bucket, {binary.ARCHIVE} is"
                " read; config.data.source must be auto or binary"
            )
        return _read_from_bucket(data_dir, archive_sha256, poll)

    with files.translate_errors(
        f"config.data.dir={data_dir}", kind=errors.DataError
    ):
        return _read_from_folder(source, data_dir, archive_sha256, poll)


def _read_from_folder(
    source: str, data_dir: str, archive_sha256: str, poll: Callable[[], None]
) -> dataset.Dataset:
    """Reads what a folder or a file contains; see `load`."""
    path = pathlib.Path(os.path.expanduser(data_dir))
    if source == "tfds" and not tfds_source.find(path):
        # The source was named: TFDS downloads to this folder.
        return tfds_source.read(path, download=True, poll=poll)
    if not path.exists():
        raise errors.DataError(
            f"config.data.dir={data_dir}: the path does not exist"
        )
    found_binary = binary.find(path) if source in ("auto", "binary") else None
    if found_binary:
        logging.info("images: binary version, %s", found_binary)
        return binary.read(found_binary, archive_sha256, poll)
    found_tfds = tfds_source.find(path) if source in ("auto", "tfds") else None
    if found_tfds:
        logging.info("images: tensorflow-datasets, %s", found_tfds)
        return tfds_source.read(found_tfds, poll=poll)
    raise errors.DataError(
        f"config.data.dir={data_dir} holds neither CIFAR-10's binary version"
        f" ({binary.FOLDER}/data_batch_1.bin or {binary.ARCHIVE}) nor a"
        " tensorflow-datasets folder"
        f" ({tfds_source.NAME}/VERSION/dataset_info.json)"
        if source == "auto"
        else f"config.data.dir={data_dir} does not hold the {source} source"
    )


def _read_from_bucket(
    url: str, archive_sha256: str, poll: Callable[[], None]
) -> dataset.Dataset:
    """Reads the archive of the binary version from a bucket.

    Args:
      url: gs://BUCKET/OBJECT of the archive, or gs://BUCKET/PATH of the folder
        that holds it under its official name.
      archive_sha256: See `binary.read`.
      poll: See `binary.read`.
    """
    archive = url
    if not url.endswith(".gz"):
        archive = f"{url.rstrip('/')}/{binary.ARCHIVE}"
    content = download.fetch(
        archive, most_bytes=_MOST_BYTES, what=f"config.data.dir={url}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, binary.ARCHIVE)
        path.write_bytes(content)
        del content
        try:
            return binary.read(path, archive_sha256, poll)
        except errors.DataError as error:
            # The temporary file is about to be deleted.
            raise errors.DataError(str(error).replace(str(path), url)) from None
