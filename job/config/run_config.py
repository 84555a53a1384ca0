"""The config of an existing run, as its workdir holds it.

    config = run_config.load(workdir)

Imports no TensorFlow.
"""

import pathlib

import ml_collections

from job import errors
from job.config import ranges, serialization
from job.storage import files

# Resolved config of a run, as `serialization.to_json` returns it.
FILE = "config.json"
# Command line of a run: {"config": file, "flags": {field: value}}.
COMMAND_FILE = "command.json"


def load(workdir: pathlib.Path, name: str = "") -> ml_collections.ConfigDict:
    """Reads and checks the config of the run in `workdir`.

    Args:
      workdir: Local directory of the run.
      name: Name of the workdir in error messages. Defaults to its path.

    Raises:
      ConfigError: The file is absent or damaged, or a value is out of range.
    """
    saved = files.read_json(workdir / FILE)
    if not isinstance(saved, dict):
        there = (workdir / FILE).exists()
        raise errors.ConfigError(
            f"--workdir={name or workdir}: "
            + (f"{FILE} in it is damaged" if there else f"no {FILE} of a run")
        )
    config = serialization.from_json(saved)
    ranges.check(config)
    return config
