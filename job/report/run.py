"""The files of one run, finished or in progress, read for a report.

    run = read(pathlib.Path("runs/a"))
    run.of("test", "accuracy")         # epochs, accuracies

Reads the small files and the newest checkpoint's header. A report can do
without each of them except for the config: `notes` names the damaged ones.
Values of the wrong type count as absent. Imports no TensorFlow.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from job import errors
from job.checkpoint import store
from job.config import serialization
from job.output import metrics, predictions
from job.report.render import is_number
from job.storage import files
from job.storage.workdir import (
    AUGMENTATION,
    CHECKPOINTS,
    CONFIG,
    DIAGNOSE,
    FAILURE,
    METRICS,
    PREDICTIONS,
    RANGE_TEST,
    RESULT,
)

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
      name: Workdir as the user gave it.
      fields: Flattened config.
      lines: Lines of the metrics log. Each has a split and a step; the other
        values are finite numbers.
      result: Contents of result.json; empty if the run is not finished.
      failure: Contents of failure.json; empty if the run did not diverge.
      manifest: Resume metadata of the newest checkpoint; empty without one.
      step: Step of the newest checkpoint; 0 without one.
      scored: Predictions; None if absent.
      augmentation: Bytes of augmentation.png; None if absent.
      diagnosis: Contents of diagnose.json; empty if absent.
      range_test: Bytes of range_test.png; None if absent.
      notes: A sentence on each damaged file.
    """

    name: str
    fields: dict[str, Any]
    lines: list[dict[str, Any]]
    result: dict[str, Any]
    failure: dict[str, Any]
    manifest: dict[str, Any]
    step: int
    scored: predictions.Predictions | None
    augmentation: bytes | None
    diagnosis: dict[str, Any]
    range_test: bytes | None
    notes: list[str]

    @property
    def split(self) -> str:
        """Name of the evaluation split: validation if one is held out."""
        held_out = self.fields.get("data.validation_fraction")
        return "validation" if held_out else "test"

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Attempts of the run, as the newest checkpoint lists them."""
        return dicts(self.manifest.get("starts"))

    @property
    def is_synthetic(self) -> bool:
        """Whether the images were computed, not photographed."""
        named = self.fields.get("data.source")
        return "synthetic" in (named, self.result.get("data_source"))

    def of(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs and values of a column of the metrics log."""
        found = [
            (line["epoch"], line[name])
            for line in self.lines
            if line["split"] == split and {"epoch", name} <= line.keys()
        ]
        return [e for e, _ in found], [v for _, v in found]

    def figure(self, name: str) -> float | None:
        """Returns a number of the result, or of the newest checkpoint."""
        value = (self.result or self.manifest).get(name)
        return value if is_number(value) else None

    def score(self, name: str) -> float | None:
        """Returns a score of the evaluation split; None if absent."""
        return self.figure(f"{self.split}_{name}")

    def setting(self, name: str) -> float:
        """Returns a number of the config; 0.0 if absent."""
        value = self.fields.get(name)
        return value if is_number(value) else 0.0


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
    config = files.read_json(workdir / CONFIG)
    if not isinstance(config, dict):
        raise errors.ConfigError(
            f"--workdir={name or workdir}: no {CONFIG} of a run in it"
        )
    checkpoints = checkpoints or store.CheckpointStore(workdir / CHECKPOINTS)
    newest = checkpoints.newest_header()
    notes: list[str] = []

    def optional(name: str, read_file: Callable[[pathlib.Path], Any]) -> Any:
        """Returns the contents of a file; None, with a note if damaged."""
        path = workdir / name
        # A damaged file must never be the end of a report: zip, zlib, JSON
        # and NumPy raise a dozen exceptions.
        try:
            if not path.exists():
                return None
            found, cause = read_file(path), "not what a run writes"
        except Exception as error:
            found, cause = None, errors.first_line(error)
        if found is None:
            notes.append(f"{name} is damaged and left out: {cause}.")
        return found

    def number_of_lines(path: pathlib.Path) -> int:
        return sum(bool(x.strip()) for x in path.read_bytes().splitlines())

    lines = optional(METRICS, lambda path: metrics.read(path.parent)) or []
    if len(lines) < (count := optional(METRICS, number_of_lines) or 0):
        notes.append(
            f"{METRICS} is damaged: only the first {len(lines)} of its"
            f" {count} lines are shown."
        )
    return Run(
        name=name or str(workdir),
        fields=serialization.flatten(config),
        lines=[kept for line in lines if (kept := _numbers(line))],
        result=optional(RESULT, _read_dict) or {},
        failure=optional(FAILURE, _read_dict) or {},
        manifest=newest.run if newest else {},
        step=newest.step if newest else 0,
        scored=optional(PREDICTIONS, _read_predictions),
        augmentation=optional(AUGMENTATION, _read_png),
        diagnosis=optional(DIAGNOSE, _read_dict) or {},
        range_test=optional(RANGE_TEST, _read_png),
        notes=list(dict.fromkeys(notes)),
    )


def _read_dict(path: pathlib.Path) -> dict[str, Any] | None:
    value = files.read_json(path)
    return value if isinstance(value, dict) else None


def _read_png(path: pathlib.Path) -> bytes | None:
    content = path.read_bytes()
    return content if content.startswith(_PNG) else None


def _read_predictions(path: pathlib.Path) -> predictions.Predictions | None:
    found = predictions.load(path)
    if found is None or found.pictures.dtype != np.uint8:
        return None
    found.confusion()  # Fails if the labels are not integers.
    return found if np.isfinite(found.calibration_error()) else None


def dicts(value: Any) -> list[dict[str, Any]]:
    """Returns the dicts in a list; none if the value is not a list."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def texts(value: Any) -> dict[str, str]:
    """Returns a dict with its values as text; {} if it is not a dict."""
    items = value.items() if isinstance(value, dict) else ()
    return {name: str(text) for name, text in items}


def _numbers(line: dict[str, Any]) -> dict[str, Any] | None:
    """Returns a line without unusable values; None if its labels are."""
    numbers = {k: float(v) for k, v in line.items() if is_number(v)}
    if "step" not in numbers or not isinstance(line["split"], str):
        return None
    return {**numbers, "split": line["split"]}
