"""What a workdir holds of one run, finished or not, for who reports on it.

    run = read(pathlib.Path("runs/a"))
    run.of("test", "accuracy")         # epochs, and accuracies

The small files and the newest manifest; each may be absent. Imports no
TensorFlow.
"""

import dataclasses
import pathlib
from typing import Any

from job import errors
from job.checkpoint import store
from job.config import serialization
from job.output import metrics, predictions
from job.storage import files
from job.storage.workdir import (
    AUGMENTATION,
    CHECKPOINTS,
    CONFIG,
    PREDICTIONS,
    RESULT,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds.

    Attributes:
      name: of the workdir.
      fields: its flattened config.
      lines: its metrics.jsonl.
      result: its result.json; None where it is not finished.
      manifest: the newest manifest's `run`; empty without a checkpoint.
      step: of that.
      scored: its predictions; None where there are none.
      augmentation: augmentation.png; None where there is none.
    """

    name: str
    fields: dict[str, Any]
    lines: list[dict[str, Any]]
    result: dict[str, Any] | None
    manifest: dict[str, Any]
    step: int
    scored: predictions.Predictions | None
    augmentation: bytes | None

    @property
    def split(self) -> str:
        """What is scored: test, or validation where a slice is held out."""
        held_out = self.fields.get("data.validation_fraction")
        return "validation" if held_out else "test"

    @property
    def starts(self) -> list[dict[str, Any]]:
        """When and where it was started, as far as a checkpoint tells."""
        return self.manifest.get("starts", [])

    def of(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns epochs and values of a column of the record."""
        found = [
            (line["epoch"], line[name])
            for line in self.lines
            if line["split"] == split
            and isinstance(line.get(name), int | float)
            and isinstance(line.get("epoch"), int | float)
        ]
        return [e for e, _ in found], [float(v) for _, v in found]


def is_run(workdir: pathlib.Path) -> bool:
    """Says whether a folder is the workdir of a run."""
    return (workdir / CONFIG).exists()


def read(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore | None = None,
    *,
    name: str = "",
) -> Run:
    """Returns what a workdir holds.

    Args:
      workdir: of the run, finished or not.
      checkpoints: of the run; None: those in `workdir`.
      name: what people call the workdir; "": its path.

    Raises:
      ConfigError: there is no run in `workdir`.
      StorageError: its checkpoints cannot be listed.
    """
    config = files.read_json(workdir / CONFIG)
    if not isinstance(config, dict):
        raise errors.ConfigError(
            f"--workdir={name or workdir}: there is no {CONFIG} of a run in it"
        )
    checkpoints = checkpoints or store.CheckpointStore(workdir / CHECKPOINTS)
    newest = checkpoints.newest_manifest()
    result = files.read_json(workdir / RESULT)
    picture = workdir / AUGMENTATION
    return Run(
        name=name or str(workdir),
        fields=serialization.flatten(config),
        lines=metrics.read(workdir),
        result=result if isinstance(result, dict) else None,
        manifest=newest.run if newest else {},
        step=newest.step if newest else 0,
        scored=predictions.load(workdir / PREDICTIONS),
        augmentation=picture.read_bytes() if picture.exists() else None,
    )
