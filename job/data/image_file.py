"""Any PNG or JPEG file as an image that the network knows: 32 px, RGB.

    for file in find(["cat.png", "photos/", "gs://bucket/photos"]):
        image = decode(file.read())         # uint8 [32, 32, 3]

Imports no TensorFlow.
"""

import dataclasses
import io
import os
import pathlib
import posixpath
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from job import errors
from job.data.dataset import IMAGE_SIZE

if TYPE_CHECKING:  # Half a second, for those who need it.
    from job.storage.gcs import Bucket

# What is read: the two formats that images of this size come in. Others are
# refused before a byte of them is decoded.
_FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")

# A file this large is no picture that anybody means.
_MOST_BYTES = 2**28

# Pillow's names for 16 bits of grey, by the order of their bytes.
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L")


@dataclasses.dataclass(frozen=True)
class Input:
    """An image file.

    Attributes:
      name: its path or gs:// URL.
      read: returns its content; raises DataError or StorageError.
    """

    name: str
    read: Callable[[], bytes]


def find(names: Sequence[str]) -> list[Input]:
    """Returns the files that paths name, those of a folder in their order.

    Args:
      names: files, folders (with those in them) and gs:// URLs of either.

    Raises:
      DataError: there is no such path, or no PNG or JPEG in a folder.
      StorageError: a bucket cannot be read.
    """
    found: list[Input] = []
    for name in names:
        found += _find_remote(name) if "://" in name else _find_local(name)
    return found


def _find_local(name: str) -> list[Input]:
    path = pathlib.Path(os.path.expanduser(name))
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        chosen = [p for p in inside if _is_image(p.name)]
        _check_any(name, len(chosen), len(inside))
        return [_local(p) for p in chosen]
    if not path.exists():
        raise errors.DataError(f"--input={name}: there is no such path")
    return [_local(path)]


def _local(path: pathlib.Path) -> Input:
    def read() -> bytes:
        try:
            _check_size(path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            raise errors.DataError(error.strerror or str(error)) from None

    return Input(str(path), read)


def _find_remote(url: str) -> list[Input]:
    if not url.startswith("gs://"):
        raise errors.DataError(
            f"--input={url}: it must be a path or gs://BUCKET/PATH"
        )
    from job.storage import gcs

    url = url.rstrip("/")
    folder = gcs.Bucket(url, timeout_seconds=gcs.PROBE_SECONDS)
    inside = folder.find()
    if inside:
        chosen = [entry for entry in inside if _is_image(entry.name)]
        _check_any(url, len(chosen), len(inside))
        return [_remote(folder, e.name, e.size) for e in chosen]
    parent, name = posixpath.split(url)
    if parent != "gs:/":
        bucket = gcs.Bucket(parent, timeout_seconds=gcs.PROBE_SECONDS)
        for entry in bucket.find(name):
            if entry.name == name:
                return [_remote(bucket, name, entry.size)]
    raise errors.DataError(f"--input={url}: there is no such object or folder")


def _remote(bucket: "Bucket", name: str, size: int) -> Input:
    def read() -> bytes:
        _check_size(size)
        try:
            return bucket.read(name)[0]
        except FileNotFoundError as error:
            raise errors.DataError(str(error)) from None

    return Input(f"{bucket}/{name}", read)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise errors.DataError(f"{size:,} bytes are too many for an image")


def _check_any(name: str, chosen: int, inside: int) -> None:
    if not chosen:
        raise errors.DataError(
            f"--input={name}: none of the {inside} files in it ends with"
            f" {', '.join(SUFFIXES)}"
        )
    if chosen < inside:
        logging.info(
            "%s: %d files are no images by their names and are left alone",
            name,
            inside - chosen,
        )


def decode(content: bytes) -> np.ndarray:
    """Returns the middle square of an image, scaled to 32 by 32 pixels.

    A picture of that size is returned as it is. Others are scaled by Pillow's
    bicubic filter, which averages over what it leaves out. Grey becomes RGB, 16
    bits become 8, what is transparent becomes white, a camera's rotation is
    undone; of an animation it is the first frame.

    Args:
      content: of a PNG or JPEG file.

    Returns:
      uint8 [32, 32, 3], RGB, 0 to 255.

    Raises:
      DataError: it is none, is damaged, or has more pixels than Pillow trusts
        (89 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
                opened.load()
                # In its own modes it would lose what they cannot hold.
                image = _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise errors.DataError("it is no PNG or JPEG image") from None
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        raise errors.DataError(
            f"it has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        ) from None
    except MemoryError:
        raise errors.DataError("it does not fit into memory") from None
    except Exception as error:
        # A decoder of bytes from anywhere raises whatever it trips over.
        raise errors.DataError(
            f"it is damaged ({type(error).__name__}: {error})"
        ) from None
    return np.asarray(_to_square(image), np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_square(image: Image.Image) -> Image.Image:
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if image.size == size:
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cut first: the filter would look over the edge of a box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize(size, Image.Resampling.BICUBIC)
