"""PNG and JPEG files as images for the network: 32 px, RGB.

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
from job.storage import files, reader

if TYPE_CHECKING:  # The import takes half a second.
    from job.storage.gcs import Bucket

# Other formats are refused before they are decoded.
_FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")

# Size limit in bytes. A larger file is given by mistake.
_MOST_BYTES = 2**28

# Pillow's modes for 16-bit grayscale, by byte order.
_DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L")


@dataclasses.dataclass(frozen=True)
class Input:
    """Image file.

    Attributes:
      name: Path or gs:// URL.
      read: Function that returns the content or raises DataError or
        StorageError.
    """

    name: str
    read: Callable[[], bytes]


def find(names: Sequence[str]) -> list[Input]:
    """Returns the image files at some paths, sorted by name per folder.

    Args:
      names: Files, folders (searched recursively) and gs:// URLs of either.

    Raises:
      DataError: A path does not exist, or a folder has no PNG or JPEG file.
      StorageError: A bucket cannot be read.
    """
    found: list[Input] = []
    for name in names:
        found += _find_remote(name) if "://" in name else _find_local(name)
    return found


def _find_local(name: str) -> list[Input]:
    path = pathlib.Path(os.path.expanduser(name))
    with files.translate_errors(f"--input={name}", kind=errors.DataError):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            chosen = [p for p in inside if _is_image(p.name)]
            _check_any(name, len(chosen), len(inside))
            return [_local(p) for p in chosen]
        if not path.exists():
            raise errors.DataError(
                f"--input={name}: the path does not exist. Fix: correct it"
            )
    return [_local(path)]


def _local(path: pathlib.Path) -> Input:
    def read() -> bytes:
        content = reader.read_bytes(
            path, max_bytes=_MOST_BYTES, name="the file"
        )
        if content is None:
            raise errors.DataError("the file does not exist")
        return content

    return Input(str(path), read)


def _find_remote(url: str) -> list[Input]:
    if not url.startswith("gs://"):
        raise errors.DataError(
            f"--input={url}: must be a path or gs://BUCKET/PATH"
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
    raise errors.DataError(
        f"--input={url}: the object or folder does not exist. Fix: correct it"
    )


def _remote(bucket: "Bucket", name: str, size: int) -> Input:
    def read() -> bytes:
        _check_size(size)
        try:
            return bucket.read(name)
        except FileNotFoundError as error:
            raise errors.DataError(str(error)) from None

    return Input(f"{bucket}/{name}", read)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise errors.DataError(
            f"the file has {size:,} bytes, more than {_MOST_BYTES:,}"
        )


def _check_any(name: str, chosen: int, inside: int) -> None:
    if not chosen:
        raise errors.DataError(
            f"--input={name}: none of {inside} files is an image. Fix: choose a"
            f" folder of {', '.join(SUFFIXES)} files"
        )
    if chosen < inside:
        logging.info(
            "Skipped %d files without an image extension in %s",
            inside - chosen,
            name,
        )


def decode(content: bytes) -> np.ndarray:
    """Returns the central square of an image, scaled to 32 by 32 pixels.

    An image of that size is not changed. Others are scaled by Pillow's bicubic
    filter, which is antialiased. Grayscale becomes RGB, 16 bits become 8,
    transparent pixels become white, and a camera's rotation is undone. An
    animation is reduced to its first frame.

    Args:
      content: Bytes of a PNG or JPEG file.

    Returns:
      Image, uint8 [32, 32, 3], RGB, 0 to 255.

    Raises:
      DataError: The content is not a PNG or JPEG image, is damaged, or has more
        pixels than Pillow's limit (89 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
                opened.load()
                # Resizing in a palette or grayscale mode would lose colors.
                image = _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise errors.DataError("the file is not a PNG or JPEG image") from None
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        raise errors.DataError(
            f"the image has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        ) from None
    except MemoryError:
        raise errors.DataError("the image does not fit into memory") from None
    except Exception as error:
        # Decoders raise exceptions of many types for damaged bytes.
        raise errors.DataError(
            f"the image is damaged ({type(error).__name__}: {error})"
        ) from None
    return np.asarray(_to_square(image), np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GRAY:
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
    # The image is cropped first, because the filter would read pixels outside
    # of a box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize(size, Image.Resampling.BICUBIC)
