"""Config fields that may change on resume, and those that must not.

    resume.fingerprint(fields)             # hash of the fields that must not
    resume.differences(saved, fields)      # descriptions of those that differ

Imports no TensorFlow.
"""

import hashlib
import json
from collections.abc import Mapping
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


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Returns a hash of the fields that must not change on resume.

    Args:
      fields: Flattened config.

    Returns:
      16 hexadecimal digits.
    """
    kept = {k: v for k, v in fields.items() if not _is_changeable(k)}
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
    absent = "(absent)"
    saved = {**serialization.flatten(default.get_config()), **saved}
    return [
        f"{name}: {saved.get(name, absent)} -> {fields.get(name, absent)}"
        for name in sorted(saved.keys() | fields.keys())
        if not _is_changeable(name)
        and saved.get(name, absent) != fields.get(name, absent)
    ]


def _is_changeable(name: str) -> bool:
    return any(
        name.startswith(entry) if entry.endswith(".") else name == entry
        for entry in CHANGEABLE_ON_RESUME
    )
