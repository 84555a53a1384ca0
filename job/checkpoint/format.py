"""Format of a checkpoint, a safetensors file that is verified on reading.

    pieces = encode(step, tensors, run, writer="9f...")
    header = read_header(file, size)
    tensors = read_tensors(file, header)

A file has the length of its header (8 bytes, little-endian), a JSON header, and
the tensors in C order. `safetensors.numpy.load_file` reads it; see
https://github.com/huggingface/safetensors#format. That format has no checksums.
So `__metadata__` has one JSON string, with a crc32c of each tensor, and the
crc32c of this string:

    {"__metadata__": {"checkpoint": "{...}", "crc32c": "0a1b2c3d"},
     "model/block1_conv1/kernel": {"dtype": "F32", "shape": [3, 3, 3, 64],
                                   "data_offsets": [0, 6912]}, ...}

The string determines all other bytes of the header, and the reader compares
them. Imports no TensorFlow.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from job import errors
from job.storage import reader

FORMAT = 2

# Limits of a reader. A header of 200 tensors has 60 KB, and the largest network
# at 224 pixels, with averages and two moments, has 2.2 GB.
_MAX_HEADER_BYTES = 8 * 2**20
_MAX_FILE_BYTES = 32 * 2**30
_MAX_DIMENSIONS = 8
# Unit of reading in bytes, a multiple of the size of every dtype.
BLOCK_BYTES = 16 * 2**20

_DTYPES = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "U8": "|u1"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}

# Fields of the resume metadata that readers use, if present.
_RUN: reader.Kind = {
    "config?": dict,
    "data_crc32c?": str,
    "resumes?": reader.Number(0, whole=True),
    "train_seconds?": reader.Number(0),
    "compile_seconds?": reader.Number(0),
    "rollbacks?": [dict],
    "starts?": [{"step?": reader.Number(0, whole=True)}],
}
_METADATA: reader.Kind = {
    "step": reader.Number(0, sys.maxsize, whole=True),
    "run": _RUN,
    "tensors": dict,
    "writer": str,
}
_TENSOR: reader.Kind = {
    "dtype": str,
    "shape": [reader.Number(0, _MAX_FILE_BYTES, whole=True)],
    "crc32c": str,
}


class InvalidCheckpointError(Exception):
    """Error for a file that is damaged or not a checkpoint."""


class NewerFormatError(Exception):
    """Error for a file of a later version of the job, which may be intact."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Type, shape and checksum of a tensor.

    Attributes:
      dtype: Safetensors name of the type, F32, I32, I64 or U8.
      shape: Lengths of the dimensions.
      crc32c: Checksum of its bytes, 8 hexadecimal digits.
    """

    dtype: str
    shape: tuple[int, ...]
    crc32c: str

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


@dataclasses.dataclass(frozen=True)
class Header:
    """Contents of a checkpoint, except for the data of its tensors.

    Attributes:
      step: Training step of the checkpoint.
      run: Resume metadata of JSON types, such as config, seed, replicas,
        versions and earlier attempts.
      tensors: Tensors by name, in the order of the file.
      writer: Id of the process that wrote it.
    """

    step: int
    run: dict[str, Any]
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    writer: str = ""

    def to_bytes(self) -> bytes:
        """Returns the first bytes of the file, up to the first tensor."""
        text = json.dumps(
            {
                "format": FORMAT,
                "step": self.step,
                "run": self.run,
                "tensors": {
                    n: vars(tensor) for n, tensor in self.tensors.items()
                },
                "writer": self.writer,
            }
        )
        checksum = f"{google_crc32c.value(text.encode()):08x}"
        table: dict[str, Any] = {
            "__metadata__": {"checkpoint": text, "crc32c": checksum}
        }
        end = 0
        for name, tensor in self.tensors.items():
            begin, end = end, end + tensor.size
            table[name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [begin, end],
            }
        content = json.dumps(table).encode()
        content += b" " * (-len(content) % 8)  # Aligns the first tensor.
        return len(content).to_bytes(8, "little") + content


def encode(
    step: int,
    tensors: Mapping[str, np.ndarray],
    run: dict[str, Any],
    *,
    writer: str = "",
) -> list[np.ndarray]:
    """Returns the bytes of a checkpoint as uint8 arrays, in order.

    They share the memory of the tensors, which must not change.

    Args:
      step: Training step of the checkpoint.
      tensors: Tensors by name, of type float32, int32, int64 or uint8.
      run: Resume metadata; see `Header`.
      writer: Id of this process; see `Header`.
    """
    table, pieces = {}, []
    for name, array in tensors.items():
        # An array that is contiguous already is not copied.
        piece = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        table[name] = Tensor(
            _NAMES[array.dtype],
            array.shape,
            f"{google_crc32c.value(piece):08x}",
        )
        pieces.append(piece)
    header = Header(step, run, table, writer)
    return [np.frombuffer(header.to_bytes(), np.uint8), *pieces]


def read_header(file: BinaryIO, size: int) -> Header:
    """Reads and validates the header of a checkpoint.

    Args:
      file: File at its first byte. On return it is at the first tensor.
      size: Size of the file in bytes.

    Raises:
      NewerFormatError: A later version of the job wrote the file.
      InvalidCheckpointError: The file is damaged or not a checkpoint.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
        raise InvalidCheckpointError("the header is missing")
    content = file.read(length)
    header = _parse(content)
    if header.to_bytes() != start + content:
        raise InvalidCheckpointError("header and metadata do not match")
    data = sum(tensor.size for tensor in header.tensors.values())
    if size != 8 + length + data or size > _MAX_FILE_BYTES:
        raise InvalidCheckpointError(
            f"the file has {size:,} bytes, not {8 + length + data:,}"
        )
    return header


def _parse(content: bytes) -> Header:
    kind: reader.Kind = {"__metadata__": {"checkpoint": str, "crc32c": str}}
    metadata = _parse_json(content, kind)["__metadata__"]
    text = metadata["checkpoint"].encode()
    if metadata["crc32c"] != f"{google_crc32c.value(text):08x}":
        raise InvalidCheckpointError("the metadata has another crc32c")
    version = _parse_json(text, {"format": int})["format"]
    if version > FORMAT:
        raise NewerFormatError(
            f"the file has format {version}, and this version of the job reads"
            f" formats up to {FORMAT}"
        )
    if version < FORMAT:
        raise InvalidCheckpointError(f"format {version} is unknown")
    fields = _parse_json(text, _METADATA)
    kinds = {f"{name}?": _TENSOR for name in fields["tensors"]}
    tensors = {
        name: _parse_tensor(name, tensor)
        for name, tensor in _parse_json(text, {"tensors": kinds})[
            "tensors"
        ].items()
    }
    return Header(fields["step"], fields["run"], tensors, fields["writer"])


def _parse_json(content: bytes, kind: reader.Kind) -> Any:
    try:
        return reader.parse_json(content, kind, "the header")
    except errors.DataError as error:
        raise InvalidCheckpointError(str(error)) from None


def _parse_tensor(name: str, fields: Any) -> Tensor:
    tensor = Tensor(fields["dtype"], tuple(fields["shape"]), fields["crc32c"])
    if (
        tensor.dtype not in _DTYPES
        or len(tensor.shape) > _MAX_DIMENSIONS
        # If one length is 0, the others are limited too.
        or math.prod(max(1, n) for n in tensor.shape) > _MAX_FILE_BYTES
    ):
        raise InvalidCheckpointError(f"{name!a} is not a tensor")
    return tensor


def read_tensors(file: BinaryIO, header: Header) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, verified by their checksums.

    Needs memory for the tensors and two blocks.

    Args:
      file: File at its first tensor.
      header: Header of the file.

    Raises:
      InvalidCheckpointError: A tensor is damaged, truncated or not finite.
    """
    tensors = {}
    for name, tensor in header.tensors.items():
        array = np.empty(tensor.shape, _DTYPES[tensor.dtype])
        view, checksum, start = array.reshape(-1).view(np.uint8), 0, 0
        for block in _read_blocks(file, tensor.size):
            checksum = google_crc32c.extend(checksum, block)
            values = np.frombuffer(block, np.uint8)
            view[start : start + len(block)] = values
            start += len(block)
            if (
                tensor.dtype == "F32"
                and not np.isfinite(
                    values[: len(block) // 4 * 4].view("<f4")
                ).all()
            ):
                raise InvalidCheckpointError(f"{name} is not finite")
        if f"{checksum:08x}" != tensor.crc32c or start != tensor.size:
            raise InvalidCheckpointError(f"{name} has another crc32c")
        tensors[name] = array
    return tensors


def _read_blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yields the next `size` bytes of a file, or fewer if it ends before."""
    while size > 0:
        block = file.read(min(size, BLOCK_BYTES))
        if not block:
            return
        yield block
        size -= len(block)
