"""The GPUs that TensorFlow's wheel has kernels for, read off its binaries."""

import collections
import mmap
import pathlib
import re
import struct
from collections.abc import Iterator

_MAGIC = struct.pack("<I", 0xBA55ED50)
# A container of kernels begins with a magic number, a version and the sizes of
# its header and content. A kernel begins with kind, sizes and capability.
_CONTAINER = struct.Struct("<IHHQ")
_KERNEL = struct.Struct("<HHIQIIHHI")
_PTX, _MACHINE_CODE = 1, 2


def read(library: pathlib.Path) -> collections.Counter[str]:
    """Counts the containers of kernels in a library by their content.

    Args:
      library: Shared library.

    Returns:
      Number of containers by their content, such as "sm_80 sm_89 ptx_90/8.5":
      compute capability of machine code, capability and version of PTX.
    """
    counts: collections.Counter[str] = collections.Counter()
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        place = content.find(_MAGIC)
        while place >= 0:
            kinds = list(_kernels(content, place))
            counts[" ".join(sorted(set(kinds), reverse=True))] += bool(kinds)
            place = content.find(_MAGIC, place + 4)
    return +counts


def _kernels(content: mmap.mmap, place: int) -> Iterator[str]:
    _, version, header, size = _CONTAINER.unpack_from(content, place)
    if version != 1 or header != _CONTAINER.size or size > 1 << 26:
        return  # Not a container.
    at, end = place + header, place + header + size
    while at < end:
        kind, _, header, size, *_, capability = _KERNEL.unpack_from(content, at)
        if not _KERNEL.size <= header <= 4096:
            return
        if kind == _MACHINE_CODE:
            yield f"sm_{capability}"
        if kind == _PTX:
            # Compressed, but it begins with text.
            start = content[at + header : at + header + 400]
            found = re.search(rb"\.version (\d+\.\d)", start)
            yield f"ptx_{capability}/{found[1].decode() if found else '?'}"
        at += header + size
