"""Result of a finished run, result.json.

    finished(workdir, fields)      # the result of this run, if it is finished
    inspect(workdir)               # any result, and a note if it is damaged

A run is finished if and only if this file exists and matches its config. Its
checkpoints are not read. The module does not import TensorFlow.
"""

import dataclasses
import pathlib
import statistics
from typing import Any

import numpy as np

from job import errors
from job.config import resume, run_config
from job.storage import reader
from job.storage.reader import Number
from job.storage.workdir import RESULT, Workdir

# Fields that a finished run must have in common with the config. A resume may
# change them, so the fingerprint of a config omits them.
COMPARED = ("epochs", "steps", "data.source", "data.dir", "data.archive_sha256")

_ANY = Number(0.0, null=True)
_COUNT = Number(0, whole=True)
# Contents of the file; see `reader.Kind`.
_KIND = {
    **{
        f"{split}_{name}?": kind
        for split in ("test", "validation")
        for name, kind in (
            ("accuracy", Number(0.0, 1.0)),
            ("accuracy_tta", Number(0.0, 1.0, null=True)),
            ("loss", _ANY),
        )
    },
    "train_steps": _COUNT,
    "train_seconds": Number(0.0),
    "images_per_second": _ANY,
    "compile_seconds?": _ANY,
    "train_tflop?": _ANY,
    **{
        f"{name}?": _COUNT
        for name in (
            *("images_scored", "params", "replicas", "global_batch_size"),
            *("seed", "resumes", "rollbacks"),
        )
    },
    "planned_steps?": [_COUNT],
    **{
        f"{name}?": str
        for name in ("precision", "data_source", "ended", "config_hash")
    },
    "config?": dict,
}


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one evaluation of a split.

    Attributes:
      loss: Mean cross-entropy, without label smoothing.
      accuracy: Fraction of correct predictions, 0 to 1.
      accuracy_tta: Accuracy with flip TTA, 0 to 1, from the mean logits of each
        image and its horizontal flip. None without flip TTA.
      images: Number of scored images.
      logits: Logits without flip TTA, float32 [images, k], in the order of the
        split.
    """

    loss: float
    accuracy: float
    accuracy_tta: float | None
    images: int
    logits: np.ndarray = dataclasses.field(compare=False, repr=False)


def summarize(
    fields: dict[str, Any],
    scores: Scores,
    *,
    lines: list[dict[str, Any]],
    split: str,
    train_steps: int,
    train_seconds: float,
    compile_seconds: float,
    params: int,
    train_tflop: float,
    replicas: int,
    data_source: str,
    resumes: int,
    rollbacks: int,
    planned_steps: list[int],
    ended: str,
) -> dict[str, Any]:
    """Returns the result of a run, with its scores, cost and settings.

    Args:
      fields: Flattened config.
      scores: Scores of the last step, with flip TTA.
      lines: Lines of the metrics log. `images_per_second` of the result is the
        median over its train lines.
      split: Name of the evaluation split, test or validation.
      train_steps: Number of training steps.
      train_seconds: Time in the training loop over all attempts, including
        evaluations and saves, in seconds.
      compile_seconds: Compile time of the newest attempt, in seconds.
      params: Number of parameters of the model, including the moving
        statistics of batch normalization.
      train_tflop: Floating-point operations of the whole training, in 10^12.
      replicas: Number of replicas of the newest attempt.
      data_source: Source of the images: tfds, binary, python or synthetic.
      resumes: Number of resumes from a checkpoint.
      rollbacks: Number of rollbacks after a non-finite loss.
      planned_steps: Planned lengths of the run in steps, from the first attempt
        and from each resume that changed it.
      ended: Time of the end in ISO 8601.
    """
    rates = [
        line["images_per_second"] for line in lines if line["split"] == "train"
    ]
    return {
        f"{split}_accuracy": scores.accuracy,
        f"{split}_accuracy_tta": scores.accuracy_tta,
        f"{split}_loss": scores.loss,
        "images_scored": scores.images,
        "train_steps": train_steps,
        "images_per_second": statistics.median(rates) if rates else None,
        "train_seconds": round(train_seconds, 3),
        "compile_seconds": compile_seconds,
        "params": params,
        "train_tflop": round(train_tflop, 3),
        "replicas": replicas,
        "global_batch_size": fields["global_batch_size"],
        "precision": fields["precision"],
        "data_source": data_source,
        "seed": fields["seed"],
        "resumes": resumes,
        "rollbacks": rollbacks,
        "planned_steps": planned_steps,
        "ended": ended,
        "config_hash": resume.fingerprint(fields),
        "config": {name: fields[name] for name in COMPARED},
    }


def evaluated_split(result: dict[str, Any]) -> str:
    """Returns the evaluation split of a result, test or validation."""
    return "test" if "test_accuracy" in result else "validation"


def inspect(workdir: pathlib.Path) -> reader.Reading[dict[str, Any]]:
    """Returns the contents of result.json, and a note if it is damaged."""
    return reader.inspect(lambda: _read(workdir / RESULT))


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    result = reader.read_json(path, _KIND)
    if result is not None and not any(
        {f"{split}_accuracy", f"{split}_accuracy_tta"} <= result.keys()
        for split in ("test", "validation")
    ):
        raise reader.DamagedError(f"{path}: test_accuracy is missing")
    return result


def finished(workdir: Workdir, fields: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the result in `workdir`, or None unless it matches `fields`.

    Args:
      workdir: Workdir of the run.
      fields: Flattened config of the run.
    """
    result = inspect(workdir.local).value
    if result is None:
        return None
    try:
        # Fields that are newer than the run have their defaults, so that a new
        # field does not restart a finished run.
        saved = run_config.read_fields(workdir)
    except errors.ConfigError:
        return None
    same = (
        result.get("config_hash") == resume.fingerprint(saved)
        and not resume.differences(saved, fields)
        and result.get("config") == {name: fields[name] for name in COMPARED}
    )
    return result if same else None
