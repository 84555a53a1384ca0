"""The config of an existing run, as its workdir holds it.

    config = run_config.load(workdir)

Imports no TensorFlow.
"""

import pathlib

import ml_collections

from job import errors
from job.config import ranges, serialization
from job.storage import files
from job.storage.workdir import CONFIG


def load(workdir: pathlib.Path, name: str = "") -> ml_collections.ConfigDict:
    """Reads and checks the config of the run in `workdir`.

    Args:
      workdir: Local directory of the run.
      name: Name of the workdir in error messages. Defaults to its path.

    Raises:
      ConfigError: The file is absent or damaged, or a value is out of range.
    """
    saved = files.read_json(workdir / CONFIG)
    if not isinstance(saved, dict):
        there = (workdir / CONFIG).exists()
        raise errors.ConfigError(
            f"--workdir={name or workdir}: "
            + (
                f"{CONFIG} in it is damaged"
                if there
                else f"no {CONFIG} of a run"
            )
        )
    config = serialization.from_json(saved)
    ranges.check(config)
    return config
