"""The files of one run, finished or in progress, read for a report.

    run = read(pathlib.Path("runs/a"))
    run.of("test", "accuracy")         # epochs, accuracies

Reads the small files and the newest manifest; each may be absent. Imports no
TensorFlow.
"""

import dataclasses
import pathlib
from typing import Any

from job.checkpoint import store
from job.config import run_config
from job.output import metrics, predictions, results
from job.storage import reader
from job.storage.workdir import (
    AUGMENTATION,
    CHECKPOINTS,
    CONFIG,
    PREDICTIONS,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
      name: Name of the workdir.
      fields: Flattened config.
      lines: Lines of the metrics log.
      result: Result; None if the run is not finished.
      manifest: Resume metadata of the newest checkpoint; empty without one.
      step: Step of the newest checkpoint; 0 without one.
      scored: Predictions; None if absent or damaged.
      augmentation: Bytes of augmentation.png; None if absent.
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
        """Name of the evaluation split: validation if one is held out."""
        held_out = self.fields.get("data.validation_fraction")
        return "validation" if held_out else "test"

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Attempts of the run, as the newest checkpoint lists them."""
        return self.manifest.get("starts", [])

    def of(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs and values of a column of the metrics log."""
        found = [
            (line["epoch"], line[name])
            for line in self.lines
            if line["split"] == split
            and isinstance(line.get(name), int | float)
            and isinstance(line.get("epoch"), int | float)
        ]
        return [e for e, _ in found], [float(v) for _, v in found]


def is_run(workdir: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of a run."""
    return (workdir / CONFIG).exists()


def read(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore | None = None,
    *,
    name: str = "",
) -> Run:
    """Returns the files of a run.

    Args:
      workdir: Folder of the run, finished or not.
      checkpoints: Checkpoints of the run. If None, those in `workdir`.
      name: Workdir as the user gave it. If "", the path of `workdir`.

    Raises:
      ConfigError: `workdir` does not contain a run.
      StorageError: The checkpoints cannot be listed.
    """
    fields = run_config.read_fields(workdir, name)
    checkpoints = checkpoints or store.CheckpointStore(workdir / CHECKPOINTS)
    newest = checkpoints.newest_manifest()
    try:
        picture = reader.read_bytes(workdir / AUGMENTATION, max_bytes=2**24)
    except reader.DamagedError:
        picture = None
    return Run(
        name=name or str(workdir),
        fields=fields,
        lines=metrics.read(workdir),
        result=results.inspect(workdir).value,
        manifest=newest.run if newest else {},
        step=newest.step if newest else 0,
        scored=predictions.load(workdir / PREDICTIONS),
        augmentation=picture,
    )
