"""Layout of checkpoints in a storage: `step-00001234/MANIFEST.json` and data.

    listing = layout.find(storage)
    layout.committed(listing)                # steps that have a manifest

Imports no TensorFlow.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from job.checkpoint import manifest
from job.storage import Entry, Storage

PREFIX = "step-"
# Prefix of the new name of a damaged checkpoint's manifest.
QUARANTINED = manifest.NAME + ".quarantined-"

_NAME = re.compile(r"step-([0-9]{8,})/([^/]+)")


def file_name(step: int, base: str) -> str:
    """Returns the name of a checkpoint's file, relative to the storage."""
    return f"{PREFIX}{step:08d}/{base}"


def base_name(name: str) -> str:
    """Returns the part of a name after the last slash."""
    return name.rpartition("/")[2]


def find(
    storage: Storage, timeout: float | None = None
) -> dict[int, list[Entry]]:
    """Returns the files of each step that has any, by step, ascending.

    Args:
      storage: Storage of the checkpoints.
      timeout: Limit in seconds. If None, the storage's own.
    """
    return by_step(storage.find(PREFIX, timeout=timeout))


def by_step(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Groups the files of checkpoints by step, ascending; ignores others."""
    listing: dict[int, list[Entry]] = {}
    for entry in entries:
        if match := _NAME.fullmatch(entry.name):
            listing.setdefault(int(match[1]), []).append(entry)
    return dict(sorted(listing.items()))


def committed(listing: Mapping[int, Sequence[Entry]]) -> list[int]:
    """Returns the steps that have a manifest, in the order of the listing."""
    return [
        step
        for step, entries in listing.items()
        if any(base_name(entry.name) == manifest.NAME for entry in entries)
    ]


def read_manifest(
    storage: Storage, step: int, timeout: float | None = None
) -> manifest.Manifest | None:
    """Returns a step's manifest; None if absent, damaged or of a later format.

    Args:
      storage: Storage of the checkpoints.
      step: Step of the checkpoint.
      timeout: Limit in seconds. If None, the storage's own.
    """
    try:
        (content,) = storage.read(
            file_name(step, manifest.NAME), timeout=timeout
        )
        return manifest.from_json(content)
    except (
        FileNotFoundError,
        manifest.InvalidCheckpointError,
        manifest.NewerFormatError,
    ):
        return None
