"""The manifest of a checkpoint: its files and tensors, with checksums.

A checkpoint is a directory that contains a manifest, which is written last. The
manifest lists every file with size and crc32c, and every tensor with dtype,
shape, offset and crc32c: enough to verify that the bytes that are read are
those that were written. Imports no TensorFlow.

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

# A name that cannot leave the directory, be hidden, or be a manifest's.
_FILE_NAME = re.compile(r"tensors-[0-9]{1,4}-[0-9a-f]{6,64}\.bin")
_DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8"})


class InvalidCheckpointError(Exception):
    """A checkpoint does not match its manifest."""


class NewerFormatError(Exception):
    """A later version of this job wrote the manifest, which may be intact."""


@dataclasses.dataclass(frozen=True)
class File:
    """A data file of a checkpoint: name, size in bytes, and crc32c."""

    name: str
    size: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint: C order, at byte `offset` of file `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    crc32c: str

    @property
    def size(self) -> int:
        """Size in bytes."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return count * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A checkpoint's table of contents.

    Attributes:
      step: Training step of the checkpoint.
      attempt: Id of the process and of the save; part of the files' names.
      files: Data files.
      tensors: Tensors in the data files.
      run: Resume metadata, of JSON types only: config, seed, replicas,
        versions, attempts, the metrics log up to this step.
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
    """Reads and validates MANIFEST.json.

    Raises:
      NewerFormatError: A later version of the job wrote it.
      InvalidCheckpointError: It is not JSON, has an unknown format or a wrong
        checksum, or lists a file name or dtype that no checkpoint has.
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
    """Returns the tensors by name, verified by their checksums.

    Args:
      found: Manifest of the checkpoint.
      contents: Bytes of the data files, in the manifest's order.

    Raises:
      InvalidCheckpointError: The size or crc32c of a file or tensor differs
        from the manifest's.
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
    """Packs tensors into files of about `file_bytes` each.

    Returns:
      The files, the tensors in them, and the bytes of the files.
    """
    groups: list[list[bytes]] = [[]]
    entries = []
    offset = 0
    for name, array in tensors.items():
        # ascontiguousarray would turn a scalar into a vector.
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
        group.clear()  # Avoids a second copy of all tensors.
    files = tuple(
        File(f"tensors-{i}-{attempt}.bin", len(content), crc32c(content))
        for i, content in enumerate(contents)
    )
    return files, tuple(entries), contents
