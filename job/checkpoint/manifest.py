"""What MANIFEST.json says: the tensors of a checkpoint, and where they lie.

A checkpoint is a directory; its manifest, written last, makes it one. The
manifest names every file with size and crc32c, and every tensor with dtype,
shape, place and crc32c: enough to know that what is read is what was written.
Imports no TensorFlow.

    {"format": 1, "step": 1234, "attempt": "9f...", "seed": 0, "replicas": 1,
     "files": [{"name": "tensors-0-9f....bin", "size": ..., "crc32c": "..."}],
     "tensors": [{"name": "model/...", "dtype": "<f4", "shape": [3, 3, 3, 64],
                  "file": 0, "offset": 0, "crc32c": "..."}], ...}
"""

import dataclasses
import json
import re
from typing import Any

import google_crc32c
import numpy as np

FORMAT = 1
NAME = "MANIFEST.json"

# Nothing that could leave the directory, hide, or be taken for a manifest.
_FILE_NAME = re.compile(r"tensors-[0-9]{1,4}-[0-9a-f]{6,64}\.bin")
_DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8"})


class InvalidCheckpointError(Exception):
    """A checkpoint is not what its manifest says it is."""


class NewerFormatError(Exception):
    """A later version of this job wrote the manifest; nothing is wrong."""


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a checkpoint: its name, bytes, and crc32c of all of them."""

    name: str
    size: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint: C order, at `offset` bytes in file `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    crc32c: str

    @property
    def size(self) -> int:
        """Bytes."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return count * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A checkpoint's table of contents.

    Attributes:
      step: training steps done when it was taken.
      attempt: id of the process that wrote it, and of the save; part of its
        files' names.
      files: the data files.
      tensors: what is in them.
      run: what else a later start wants to know of the run, JSON types only:
        config, seed, replicas, versions, starts, the record up to this step.
    """

    step: int
    attempt: str
    files: tuple[File, ...]
    tensors: tuple[Tensor, ...]
    run: dict[str, Any]

    def to_json(self) -> bytes:
        """Returns the bytes of MANIFEST.json."""
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        fields["crc32c"] = fields_crc32c(fields)
        return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"


def crc32c(data: bytes) -> str:
    """Returns the crc32c of `data`, 8 hexadecimal digits."""
    return f"{google_crc32c.value(data):08x}"


def fields_crc32c(fields: dict[str, Any]) -> str:
    """Returns the crc32c of a manifest's fields other than `crc32c`."""
    rest = {name: value for name, value in fields.items() if name != "crc32c"}
    return crc32c(json.dumps(rest, sort_keys=True).encode())


def from_json(content: bytes) -> Manifest:
    """Reads MANIFEST.json, trusting nothing in it.

    Raises:
      NewerFormatError: its format is a later one.
      InvalidCheckpointError: it is not JSON, is of no known format, or names a
        file or type that no checkpoint of ours has.
    """
    try:
        fields = json.loads(content)
        version = fields.pop("format")
        if type(version) is int and version > FORMAT:
            raise NewerFormatError(
                f"{NAME} has format {version}, and this version of the job"
                f" reads formats up to {FORMAT}"
            )
        if version != FORMAT:
            raise InvalidCheckpointError(
                f"{NAME} has format {version!r}; this job reads {FORMAT}"
            )
        if fields["crc32c"] != fields_crc32c({"format": version, **fields}):
            raise InvalidCheckpointError(f"{NAME} is damaged: wrong crc32c")
        found = Manifest(
            step=int(fields["step"]),
            attempt=str(fields["attempt"]),
            files=tuple(File(**file) for file in fields["files"]),
            tensors=tuple(
                Tensor(**{**tensor, "shape": tuple(map(int, tensor["shape"]))})
                for tensor in fields["tensors"]
            ),
            run=dict(fields["run"]),
        )
        for file in found.files:
            if not _FILE_NAME.fullmatch(file.name) or file.size < 0:
                raise InvalidCheckpointError(
                    f"{NAME} names a file {file.name!r}"
                )
        for tensor in found.tensors:
            _check_tensor(tensor, found.files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpointError(
            f"{NAME} cannot be read: {error}"
        ) from None
    return found


def _check_tensor(tensor: Tensor, files: tuple[File, ...]) -> None:
    if tensor.dtype not in _DTYPES:
        raise InvalidCheckpointError(
            f"{tensor.name} has dtype {tensor.dtype!r}"
        )
    fits = (
        0 <= tensor.file < len(files)
        and min(tensor.shape, default=0) >= 0
        and 0 <= tensor.offset <= files[tensor.file].size - tensor.size
    )
    if not fits:
        raise InvalidCheckpointError(f"{tensor.name} lies outside of its file")


def unpack(found: Manifest, contents: list[bytes]) -> dict[str, np.ndarray]:
    """Returns the tensors, each compared with its crc32c.

    Args:
      found: the manifest.
      contents: the files' bytes, in the manifest's order.

    Raises:
      InvalidCheckpointError: a file's size or crc32c, or a tensor's, is
        another.
    """
    for file, content in zip(found.files, contents, strict=True):
        if len(content) != file.size:
            raise InvalidCheckpointError(
                f"{file.name} has {len(content):,} bytes, not {file.size:,}"
            )
        if crc32c(content) != file.crc32c:
            raise InvalidCheckpointError(
                f"{file.name} is damaged: its crc32c is wrong"
            )
    tensors = {}
    for tensor in found.tensors:
        data = contents[tensor.file][
            tensor.offset : tensor.offset + tensor.size
        ]
        if crc32c(data) != tensor.crc32c:
            raise InvalidCheckpointError(
                f"{tensor.name} is damaged: its crc32c is wrong"
            )
        array = np.frombuffer(data, tensor.dtype).reshape(tensor.shape)
        tensors[tensor.name] = array
    return tensors


def pack(
    tensors: dict[str, np.ndarray], attempt: str, file_bytes: int
) -> tuple[tuple[File, ...], tuple[Tensor, ...], list[bytes]]:
    """Lays tensors out in files of about `file_bytes`.

    Returns:
      The files, the tensors in them, and the files' bytes.
    """
    groups: list[list[bytes]] = [[]]
    entries = []
    offset = 0
    for name, array in tensors.items():
        # ascontiguousarray would make a scalar a vector.
        little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        data = little.tobytes()
        if offset and offset + len(data) > file_bytes:
            groups.append([])
            offset = 0
        entries.append(
            Tensor(
                name,
                little.dtype.str,
                tuple(array.shape),
                len(groups) - 1,
                offset,
                crc32c(data),
            )
        )
        groups[-1].append(data)
        offset += len(data)
    contents = []
    for group in groups:
        contents.append(b"".join(group))
        group.clear()  # No second copy of all of them at once.
    files = tuple(
        File(f"tensors-{i}-{attempt}.bin", len(content), crc32c(content))
        for i, content in enumerate(contents)
    )
    return files, tuple(entries), contents
