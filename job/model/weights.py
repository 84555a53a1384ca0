"""Reads VGG16's convolutions from a weight file of Keras: tensors, no more.

    weights = load("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")
    weights["block1_conv1/kernel"]          # float32 [3, 3, 3, 64]

HDF5 can point outside itself, at any file that the process may read: links
and data sets that do are refused, and so is all that has not VGG16's very
names and shapes. Nothing in the file is executed or unpickled.
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
from job.model.spec import BLOCKS
from job.storage import download, files

# keras.applications.vgg16: WEIGHTS_PATH_NO_TOP, and the md5 it checks.
IMAGENET = "imagenet"
_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
_MD5 = "6d6bbae143d832006294945121d1f1fc"
_DOWNLOAD_SECONDS = 60

# With its frame; the weights alone are 58,858,752 bytes.
_MOST_BYTES = 2**28


def layers() -> dict[str, tuple[int, ...]]:
    """Returns the shape of each convolution's kernel, by the layer's name."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (depth, filters) in enumerate(BLOCKS, start=1):
        for conv in range(1, depth + 1):
            shapes[f"block{block}_conv{conv}"] = (3, 3, channels, filters)
            channels = filters
    return shapes


def load(source: str) -> dict[str, np.ndarray]:
    """Returns the weights that `config.model.weights` names.

    Args:
      source: a path, gs://BUCKET/OBJECT, or imagenet, which is downloaded once
        to the cache folder, $XDG_CACHE_HOME or ~/.cache.

    Returns:
      float32 arrays: the kernel [3, 3, i, o] and bias [o] of each convolution,
      as block1_conv1/kernel and block1_conv1/bias.

    Raises:
      DataError: the file cannot be had, or does not hold that and nothing else.
      UnavailableError: it could not be had in time; a later try may succeed.
    """
    if source == IMAGENET:
        return parse(_imagenet(), "model.weights=imagenet")
    where = f"model.weights={source}"
    if source.startswith("gs://"):
        content = download.fetch(source, most_bytes=_MOST_BYTES, what=where)
        return parse(content, where)
    try:
        with open(os.path.expanduser(source), "rb") as file:
            return parse(file.read(_MOST_BYTES + 1), where)
    except OSError as error:
        raise errors.DataError(
            f"{where} cannot be read: {error.strerror}"
        ) from None


def parse(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Returns the weights in the bytes of a .h5 or .weights.h5 file.

    Args:
      content: the file.
      where: what errors call it.

    Raises:
      DataError: see `load`.
    """
    if len(content) > _MOST_BYTES:
        raise errors.DataError(
            f"{where} is larger than any VGG16 without its top"
        )
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            return _read(file, where)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        # h5py's own words go on for lines, and say nothing more to a person.
        raise errors.DataError(
            f"{where} is no whole HDF5 file of Keras' VGG16 without its top"
            f" ({errors.first_line(error)})"
        ) from None


def _read(file: h5py.File, where: str) -> dict[str, np.ndarray]:
    found = _datasets(file, where)
    weights = {}
    for number, (layer, shape) in enumerate(layers().items()):
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
                    f"{where} has no {layer}/{kind}: it is not Keras' VGG16"
                    " without its top"
                )
            if dataset.shape != wanted or dataset.dtype != np.float32:
                raise errors.DataError(
                    f"{where}: {layer}/{kind} is {dataset.dtype}"
                    f" {list(dataset.shape)}, not float32 {list(wanted)}"
                )
            value = dataset[()]
            if not np.isfinite(value).all():
                raise errors.DataError(f"{where}: {layer}/{kind} is not finite")
            weights[f"{layer}/{kind}"] = value
    if found:
        raise errors.DataError(
            f"{where} holds more than VGG16 without its top: {sorted(found)[0]}"
        )
    return weights


def _names(layer: str, kind: str, number: int) -> tuple[str, ...]:
    """Returns what a weight is called in the formats that Keras has had."""
    old = {"kernel": "W", "bias": "b"}[kind]
    place = {"kernel": 0, "bias": 1}[kind]
    convolution = f"conv2d_{number}" if number else "conv2d"
    return (
        f"{layer}/{layer}_{old}_1:0",  # Keras 1: keras.applications' file.
        f"{layer}/{layer}/{kind}:0",  # Keras 2, save_weights to .h5.
        f"model_weights/{layer}/{layer}/{kind}",  # Keras 3, save to .h5.
        f"layers/{convolution}/vars/{place}",  # Keras 3, .weights.h5.
        f"layers/{layer}/vars/{place}",
    )


def _datasets(file: h5py.File, where: str) -> dict[str, h5py.Dataset]:
    """Returns all data sets by their path, having followed no link outside."""
    found = {}
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    seen = 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            seen += 1
            if seen > 1000:
                raise errors.DataError(f"{where} has too many entries")
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise errors.DataError(
                    f"{where}: {path} is a link; only a file that holds all of"
                    " its weights is read"
                )
            entry = group[name]
            if isinstance(entry, h5py.Group):
                groups.append((f"{path}/", entry))
            elif isinstance(entry, h5py.Dataset):
                if entry.external or entry.is_virtual:
                    raise errors.DataError(
                        f"{where}: {path} lies in another file; only a file"
                        " that holds all of its weights is read"
                    )
                found[path] = entry
    return found


def _imagenet() -> bytes:
    folder = pathlib.Path(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    )
    path = folder / "vgg16-cifar10" / _URL.rpartition("/")[2]
    if path.exists():
        content = path.read_bytes()
        if _md5(content) == _MD5:
            return content
    try:
        with urllib.request.urlopen(_URL, timeout=_DOWNLOAD_SECONDS) as answer:
            content = answer.read(_MOST_BYTES)
    except (OSError, urllib.error.URLError) as error:
        passes = isinstance(error, urllib.error.HTTPError) and (
            error.code == 429 or error.code >= 500
        )
        kind = errors.UnavailableError if passes else errors.DataError
        raise kind(
            f"model.weights=imagenet: {_URL} cannot be downloaded"
            f" ({errors.first_line(error)}); give its path, once you have it"
        ) from None
    if _md5(content) != _MD5:
        raise errors.DataError(
            f"model.weights=imagenet: {_URL} gave {len(content)} bytes that"
            f" have not the md5 {_MD5}"
        )
    # A cache that cannot be kept costs the next run a download.
    with contextlib.suppress(OSError, errors.StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
    return content


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
