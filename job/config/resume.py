"""Config fields that may change on resume, and those that must not.

    resume.fingerprint(fields)             # hash of the fields that must not
    resume.differences(saved, fields)      # descriptions of those that differ
    resume.worker_differences(chiefs, own) # the same for workers of one run

Imports no TensorFlow.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from configs import default
from job.config import serialization

# These fields change the times of writing, the source of the images (whose
# contents are compared by checksum) or the devices, but not the results. A name
# that ends with a dot is a group of fields.
# checkpoint.on_nonfinite is among them although a rollback changes the result,
# as a run that stopped with exit code 5 may be resumed with it. Without
# non-finite numbers both policies give the same result, and result.json counts
# rollbacks.
CHANGEABLE_ON_RESUME = (
    "epochs",
    "steps",
    "steps_per_loop",
    "log_every_steps",
    "jit_compile",
    "data.source",
    "data.dir",
    "data.archive_sha256",
    "augment.preset",  # The fields that the preset sets are compared instead.
    "evaluate.",
    "checkpoint.",
    "distribute.strategy",
    "distribute.logical_devices",
    "distribute.require_gpus",
    "distribute.all_reduce",
)

# Workers may find the images in different places. Their contents are compared
# by checksum.
_MAY_DIFFER_BETWEEN_WORKERS = (
    "data.source",
    "data.dir",
    "data.archive_sha256",
    "augment.preset",
    "distribute.require_gpus",
)


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Returns a hash of the fields that must not change on resume.

    Args:
      fields: Flattened config.

    Returns:
      16 hexadecimal digits.
    """
    kept = {
        name: value
        for name, value in fields.items()
        if not _is_in(CHANGEABLE_ON_RESUME, name)
    }
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(
    saved: Mapping[str, Any], fields: Mapping[str, Any]
) -> list[str]:
    """Describes every changed field that must not change on resume.

    Args:
      saved: Flattened config of the checkpoint. A field that the job did not
        have then counts as its default in configs/default.py.
      fields: Flattened config of the current attempt.
    """
    saved = {**serialization.flatten(default.get_config()), **saved}
    return _differences(saved, fields, CHANGEABLE_ON_RESUME)


def worker_differences(
    chiefs: Mapping[str, Any], own: Mapping[str, Any]
) -> list[str]:
    """Describes every field that differs between two workers of a run.

    More fields must agree than on a resume. With another length of the run,
    the learning rates and so the weights of two workers would diverge. With
    another log or evaluation interval, one would wait for the other.

    Args:
      chiefs: Flattened config of the chief.
      own: Flattened config of this worker.
    """
    return _differences(chiefs, own, _MAY_DIFFER_BETWEEN_WORKERS)


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str]
) -> list[str]:
    absent = "(absent)"
    return [
        f"{name}: {old.get(name, absent)} -> {new.get(name, absent)}"
        for name in sorted(old.keys() | new.keys())
        if not _is_in(ignored, name)
        and old.get(name, absent) != new.get(name, absent)
    ]


def _is_in(entries: Sequence[str], name: str) -> bool:
    return any(
        name.startswith(entry) if entry.endswith(".") else name == entry
        for entry in entries
    )
