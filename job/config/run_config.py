"""Config of an existing run, read from its workdir.

    config = run_config.load(workdir)          # fit for this version of the job
    fields = run_config.read_fields(workdir)   # perhaps of another version
    with run_config.as_owner(opened, config, has_saved):   # of this process
        ...

Imports no TensorFlow.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np

from configs import default
from job import errors
from job.config import ranges, resume, serialization
from job.storage import files, reader
from job.storage.workdir import CONFIG, Workdir

# Time in which the owner of a workdir publishes its config.
_PUBLISH_SECONDS = 2.0


def load(workdir: Workdir) -> ml_collections.ConfigDict:
    """Reads and checks the config of the run in `workdir`.

    Raises:
      ConfigError: The file is absent or damaged, or a value is out of range.
    """
    config = serialization.from_json(_read(workdir))
    ranges.check(config)
    return config


def read_fields(workdir: Workdir) -> serialization.Fields:
    """Returns the flattened config of a run of any version of the job.

    The known fields have the types of configs/default.py.

    Raises:
      ConfigError: The file is absent or damaged.
    """
    return serialization.flatten(_read(workdir))


@contextlib.contextmanager
def as_owner(
    workdir: Workdir,
    config: ml_collections.ConfigDict,
    has_saved: Callable[[], bool],
) -> Iterator[None]:
    """Makes this process the owner of a workdir until the end of the block.

    A new run's config.json is published before anything else is written, and
    withdrawn if the run ends before its first checkpoint.

    Args:
      workdir: Open workdir of the run.
      config: Config of this attempt.
      has_saved: Function that returns whether this attempt has committed a
        checkpoint.

    Raises:
      LostRaceError: Another process trains the same run.
      ResumeError: The workdir contains a run of another config.
      ConfigError: The config in the workdir is damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(workdir.locked())
        except errors.LostRaceError:
            deadline = time.monotonic() + _PUBLISH_SECONDS
            while not (workdir.local / CONFIG).exists():
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            _compare(workdir, config)
            raise
        is_new = _publish(workdir, config)
        if not is_new:
            _compare(workdir, config)
        try:
            yield
        except (errors.LostRaceError, errors.DivergedError):
            # A report and a diagnosis of a diverged run need its config.
            raise
        except errors.JobError:
            if is_new and not has_saved():
                with contextlib.suppress(errors.StorageError):
                    workdir.root.delete(CONFIG)
            raise


def _publish(workdir: Workdir, config: ml_collections.ConfigDict) -> bool:
    """Creates config.json and returns True, or returns False if it exists."""
    path = workdir.local / CONFIG
    if path.exists():
        return False
    content = files.encode_json(serialization.to_json(config))
    try:
        workdir.root.publish(CONFIG, [np.frombuffer(content, np.uint8)])
    except FileExistsError:
        if workdir.mirror:
            with workdir.root.open(CONFIG) as saved:
                path.write_bytes(saved.read(reader.MAX_JSON_BYTES))
        return False
    return True


def _compare(workdir: Workdir, config: ml_collections.ConfigDict) -> None:
    """Raises ResumeError if the run in a workdir has another config."""
    changed = resume.differences(
        read_fields(workdir), serialization.flatten(config)
    )
    if changed:
        raise errors.ResumeError(
            f"--workdir={workdir}: the workdir contains a run of another config"
            f" ({'; '.join(changed)}). Fix: choose another workdir, undo the"
            f" change, or delete {workdir.file(CONFIG)} if the run has no"
            " checkpoint"
        )


def _read(workdir: Workdir) -> dict[str, Any]:
    where = f"--workdir={workdir}"
    kind = _kind(serialization.to_json(default.get_config()))
    try:
        saved = reader.read_json(workdir.local / CONFIG, kind, CONFIG)
        if saved is None:
            raise errors.ConfigError(
                f"{where}: no {CONFIG} found. Fix: choose the workdir of a"
                " run, such as one in runs/, or start a run with make train"
            )
        _check_names(saved)
    except reader.DamagedError as error:
        raise errors.ConfigError(
            f"{where}: {error}. Fix: restore {CONFIG} from a copy, or choose"
            " another workdir"
        ) from None
    return saved


def _kind(defaults: dict[str, Any]) -> dict[str, reader.Kind]:
    """Returns the kind of each field, from the type of its default."""
    kinds: dict[str, reader.Kind] = {}
    for name, value in defaults.items():
        if isinstance(value, dict):
            # The epochs of these groups may be the text "inf".
            is_plain = name != "unfreeze_epochs"
            kinds[f"{name}?"] = _kind(value) if is_plain else dict
        elif type(value) in (int, float):
            kinds[f"{name}?"] = reader.Number(whole=type(value) is int)
        else:
            kinds[f"{name}?"] = type(value)
    return kinds


def _check_names(nested: dict[str, Any]) -> None:
    """Raises DamagedError for a name that ConfigDict does not accept."""
    for name, value in nested.items():
        if not name.isidentifier() or name.startswith("_"):
            raise reader.DamagedError(f"{CONFIG}: {name[:40]!a} is not a field")
        if isinstance(value, dict):
            _check_names(value)
