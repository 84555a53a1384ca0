"""Files of one run, finished or in progress, for a report.

    run = read(pathlib.Path("runs/a"))
    run.of("test", "accuracy")         # epochs, accuracies

These are the small files and the header of the newest checkpoint. A report
requires only the config, and `notes` names the damaged files. The module does
not import TensorFlow.
"""

import dataclasses
import pathlib
from typing import Any

from job.checkpoint import store
from job.config import run_config
from job.output import metrics, predictions, results
from job.report.render import is_number
from job.storage import reader
from job.storage.reader import Reading
from job.storage.workdir import (
    AUGMENTATION,
    CONFIG,
    DIAGNOSE,
    FAILURE,
    PREDICTIONS,
    Workdir,
)

_MAX_PNG_BYTES = 2**24
# Contents of JSON files; see `reader.Kind`.
_FAILURE = {"error?": str}
_FINDING = {"title": str, "evidence": str, "cost?": str, "fix?": str}
_DIAGNOSIS = {
    "summary?": str,
    "command?": str,
    "findings": [_FINDING],
    "facts?": dict,
}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Run:
    """Files of a run.

    Attributes:
      name: Name of the workdir on the command line.
      fields: Flattened config.
      lines: Lines of the metrics log.
      result: Contents of result.json. Empty if the run is not finished.
      failure: Contents of failure.json. Empty if the run did not diverge.
      manifest: Resume metadata of the newest checkpoint. Empty without one.
      step: Step of the newest checkpoint. 0 without one.
      scored: Predictions. None if absent.
      augmentation: Bytes of augmentation.png. None if absent.
      diagnosis: Contents of diagnose.json. Empty if absent.
      notes: Sentence on each damaged file.
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
    notes: list[str]

    @property
    def split(self) -> str:
        """Returns the evaluation split, validation if one is held out."""
        held_out = self.fields.get("data.validation_fraction")
        return "validation" if held_out else "test"

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Returns the attempts of the run from the newest checkpoint."""
        return self.manifest.get("starts", [])

    @property
    def data_source(self) -> str:
        """Returns the source of the images, which the config may not name."""
        used = self.result.get("data_source")
        return used or str(self.fields.get("data.source"))

    @property
    def is_synthetic(self) -> bool:
        """Returns whether the images are synthetic."""
        return self.data_source == "synthetic"

    @property
    def is_cifar10(self) -> bool:
        """Returns whether the images are those of CIFAR-10."""
        return self.data_source in ("auto", "tfds", "binary", "python")

    def of(self, split: str, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs and values of a column of the metrics log.

        Args:
          split: Name of the split: train, test or validation.
          name: Name of the column.
        """
        found = [
            (line["epoch"], line[name])
            for line in self.lines
            if line["split"] == split
            and line.get("epoch") is not None
            and line.get(name) is not None
        ]
        return [e for e, _ in found], [v for _, v in found]

    def figure(self, name: str) -> float | None:
        """Returns a number of the result, or None if absent."""
        value = self.result.get(name)
        return value if is_number(value) else None

    def score(self, name: str) -> float | None:
        """Returns a score of the evaluation split, or None if absent."""
        return self.figure(f"{self.split}_{name}")

    def setting(self, name: str) -> float:
        """Returns a number of the config, or 0.0 if absent."""
        return self.fields.get(name) or 0.0


def is_run(workdir: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of a run."""
    return (workdir / CONFIG).exists()


def read(workdir: Workdir) -> Run:
    """Returns the files of a run.

    Args:
      workdir: Workdir of the run, finished or not.

    Raises:
      ConfigError: `workdir` does not contain a run.
      StorageError: The checkpoints cannot be listed.
    """
    fields, local = run_config.read_fields(workdir), workdir.local
    newest = store.CheckpointStore(workdir.checkpoints).newest_header()
    notes: list[str] = []

    def take(reading: Reading[Any], default: Any = None) -> Any:
        if reading.note:
            notes.append(f"{reading.note}.")
        return default if reading.value is None else reading.value

    return Run(
        name=str(workdir),
        fields=fields,
        lines=take(metrics.inspect(local), []),
        result=take(results.inspect(local), {}),
        failure=take(_inspect_json(local / FAILURE, _FAILURE), {}),
        manifest=newest.run if newest else {},
        step=newest.step if newest else 0,
        scored=take(predictions.inspect(local / PREDICTIONS)),
        augmentation=take(
            reader.inspect(lambda: _read_png(local / AUGMENTATION))
        ),
        diagnosis=take(_inspect_json(local / DIAGNOSE, _DIAGNOSIS), {}),
        notes=list(dict.fromkeys(notes)),
    )


def _inspect_json(path: pathlib.Path, kind: reader.Kind) -> Reading[Any]:
    return reader.inspect(lambda: reader.read_json(path, kind))


def _read_png(path: pathlib.Path) -> bytes | None:
    content = reader.read_bytes(path, max_bytes=_MAX_PNG_BYTES)
    if content is not None and not content.startswith(_PNG):
        raise reader.DamagedError(f"{path}: the file is not a PNG file")
    return content


def texts(value: Any) -> dict[str, str]:
    """Returns a dict with its values as text, or {} if it is not a dict."""
    items = value.items() if isinstance(value, dict) else ()
    return {name: str(text) for name, text in items}
