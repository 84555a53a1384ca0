"""Pretrained weights of VGG16's convolutions, read from a Keras weight file.

    weights = load("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")
    weights["block1_conv1/kernel"]          # float32 [3, 3, 3, 64]

An HDF5 file can refer to any file that is readable by the process. Such links
and data sets are refused, as are names and shapes other than those of VGG16.
Nothing in the file is executed or unpickled.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import urllib.error
import urllib.request

import h5py
import numpy as np

from job import errors
from job.model.spec import kernel_shapes
from job.storage import download, files, reader

# WEIGHTS_PATH_NO_TOP of keras.applications.vgg16, and its md5.
IMAGENET = "imagenet"
_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_MD5 = "6d6bbae143d832006294945121d1f1fc"
_DOWNLOAD_SECONDS = 60

# Largest accepted file; the weights alone are 58,858,752 bytes.
_MAX_BYTES = 2**28

_FLAG = "--config.model.weights"
_FIX = "choose a file of Keras' VGG16 without its top layers"


def load(source: str, *, max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Returns the pretrained weights from a file, a bucket or ImageNet.

    Args:
      source: Path of a file, gs://BUCKET/OBJECT, or imagenet, which is
        downloaded once to the cache folder, $XDG_CACHE_HOME or ~/.cache.
      max_bytes: Largest accepted size of the file.

    Returns:
      float32 arrays: the kernel [3, 3, i, o] and bias [o] of each convolution,
      as block1_conv1/kernel and block1_conv1/bias.

    Raises:
      DataError: The file cannot be read, or contains anything else.
      UnavailableError: The file was not available in time.
    """
    if source == IMAGENET:
        return parse(
            _imagenet(max_bytes), f"{_FLAG}=imagenet", max_bytes=max_bytes
        )
    where = f"{_FLAG}={source}"
    if source.startswith("gs://"):
        content = download.fetch(source, most_bytes=max_bytes, what=where)
    else:
        path = pathlib.Path(os.path.expanduser(source))
        read = reader.read_bytes(
            path, max_bytes=max_bytes, name=f"{where}: the file"
        )
        if read is None:
            raise errors.DataError(
                f"{where}: the file does not exist. Fix: correct the path"
            )
        content = read
    return parse(content, where, max_bytes=max_bytes)


def parse(
    content: bytes, where: str, *, max_bytes: int = _MAX_BYTES
) -> dict[str, np.ndarray]:
    """Returns the weights in the bytes of a .h5 or .weights.h5 file.

    Args:
      content: Bytes of the file.
      where: Name of the file in error messages.
      max_bytes: Largest accepted size of the file.

    Raises:
      DataError: The contents are not exactly the weights; see `load`.
    """
    if len(content) > max_bytes:
        raise errors.DataError(
            f"{where}: the file is larger than VGG16 without its top layers."
            f" Fix: {_FIX}"
        )
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            return _read(file, where)
    except errors.JobError:
        raise
    except Exception as error:
        # h5py raises exceptions of many types, with long messages.
        raise errors.DataError(
            f"{where}: the file is not an intact HDF5 file"
            f" ({errors.first_line(error)}). Fix: download it again"
        ) from None


def _read(file: h5py.File, where: str) -> dict[str, np.ndarray]:
    found = _datasets(file, where)
    weights = {}
    for number, (layer, shape) in enumerate(kernel_shapes().items()):
        for kind, wanted in (("kernel", shape), ("bias", shape[-1:])):
            dataset = next(
                (
                    found.pop(name)
                    for name in _names(layer, kind, number)
                    if name in found
                ),
                None,
            )
            if dataset is None:
                raise errors.DataError(
                    f"{where}: {layer}/{kind} is missing. Fix: {_FIX}"
                )
            if dataset.shape != wanted or dataset.dtype != np.float32:
                raise errors.DataError(
                    f"{where}: {layer}/{kind} is {dataset.dtype}"
                    f" {list(dataset.shape)}, not float32 {list(wanted)}."
                    f" Fix: {_FIX}"
                )
            value = dataset[()]
            if not np.isfinite(value).all():
                raise errors.DataError(
                    f"{where}: {layer}/{kind} is not finite. Fix: {_FIX}"
                )
            weights[f"{layer}/{kind}"] = value
    if found:
        raise errors.DataError(
            f"{where}: the entry {sorted(found)[0]} does not belong to VGG16"
            f" without its top layers. Fix: {_FIX}"
        )
    return weights


def _names(layer: str, kind: str, number: int) -> tuple[str, ...]:
    """Returns the names of a weight in all formats that Keras has used."""
    old = {"kernel": "W", "bias": "b"}[kind]
    index = {"kernel": 0, "bias": 1}[kind]
    convolution = f"conv2d_{number}" if number else "conv2d"
    return (
        f"{layer}/{layer}_{old}_1:0",  # Keras 1: keras.applications' file.
        f"{layer}/{layer}/{kind}:0",  # Keras 2, save_weights to .h5.
        f"model_weights/{layer}/{layer}/{kind}",  # Keras 3, save to .h5.
        f"layers/{convolution}/vars/{index}",  # Keras 3, .weights.h5.
        f"layers/{layer}/vars/{index}",
    )


def _datasets(file: h5py.File, where: str) -> dict[str, h5py.Dataset]:
    """Returns all data sets by path, without following links."""
    found = {}
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    seen = 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            seen += 1
            if seen > 1000:
                raise errors.DataError(
                    f"{where}: the file has too many entries. Fix: {_FIX}"
                )
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise errors.DataError(
                    f"{where}: {path} is a link. Fix: choose a file that"
                    " contains all of its weights"
                )
            entry = group[name]
            if isinstance(entry, h5py.Group):
                groups.append((f"{path}/", entry))
            elif isinstance(entry, h5py.Dataset):
                if entry.external or entry.is_virtual:
                    raise errors.DataError(
                        f"{where}: {path} is stored in another file. Fix:"
                        " choose a file that contains all of its weights"
                    )
                found[path] = entry
    return found


def _imagenet(max_bytes: int) -> bytes:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(folder, "vgg16-cifar10", _URL.rpartition("/")[2])
    # An unreadable cached file is downloaded again. Without a home directory
    # the path is relative, and nothing is cached.
    with contextlib.suppress(reader.DamagedError, errors.UnavailableError):
        cached = reader.read_bytes(path, max_bytes=max_bytes)
        if cached and path.is_absolute() and _md5(cached) == _MD5:
            return cached
    try:
        with urllib.request.urlopen(_URL, timeout=_DOWNLOAD_SECONDS) as answer:
            content = answer.read(max_bytes)
    except (OSError, urllib.error.URLError) as error:
        is_transient = isinstance(error, urllib.error.HTTPError) and (
            error.code == 429 or error.code >= 500
        )
        kind = errors.UnavailableError if is_transient else errors.DataError
        raise kind(
            f"{_FLAG}=imagenet: {_URL} cannot be downloaded"
            f" ({errors.first_line(error)}). Fix: download it elsewhere and set"
            f" {_FLAG} to its path"
        ) from None
    if _md5(content) != _MD5:
        raise errors.DataError(
            f"{_FLAG}=imagenet: {_URL} has {len(content):,} bytes, and its"
            f" md5 is not {_MD5}. Fix: try again"
        )
    # A failure is harmless, because the next run downloads the file again.
    with contextlib.suppress(OSError, errors.StorageError):
        if not path.is_absolute():
            return content
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
    return content


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
