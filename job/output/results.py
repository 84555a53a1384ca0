"""What a finished run leaves for people and programs: result.json.

A finished run is known by this file alone, without a look at its data.

    finished(workdir, fields)      # the result, if this very run is over
"""

import math
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from job.config import resume
from job.storage import files

if TYPE_CHECKING:  # Reading a result needs no TensorFlow.
    from job.training.evaluate import Scores

FILE = "result.json"
# What `report.page`, slow to import, makes of it.
PAGE = "report.html"

# What the config's fingerprint leaves out because a resume may change it, and
# what makes it another result all the same.
_ASKED = ("epochs", "steps", "data.source", "data.dir", "data.archive_sha256")

# What a person is shown of a result, beside its accuracies.
_SHOWN = {"train_steps", "train_seconds", "images_per_second"}


def summarize(
    fields: dict[str, Any],
    scores: "Scores",
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
    """Returns the result of a run: the last epoch's scores, and what it took.

    Args:
      fields: the flattened config.
      scores: `evaluate.Scores` of the last step, with test-time augmentation.
      lines: of metrics.jsonl; the throughput is the median of its train lines.
      split: what was scored: test, or validation where a slice was held out.
      train_steps: steps done.
      train_seconds: in the loop over all starts, evaluations and saves
        included.
      compile_seconds: of the newest start.
      params: of the model, running moments included.
      train_tflop: operations of the whole training, in 10^12.
      replicas: devices of the newest start.
      data_source: tfds, binary or synthetic.
      resumes: how often it went on from a checkpoint.
      rollbacks: how often a number was not finite, and the rate was halved.
      planned_steps: for how many steps the run was meant, at first and, where a
        resume changed it, since.
      ended: when, in ISO 8601.
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
        "images_per_second": statistics.median(rates) if rates else math.nan,
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
        "config": {name: fields[name] for name in _ASKED},
    }


def finished(
    workdir: pathlib.Path, fields: dict[str, Any]
) -> dict[str, Any] | None:
    """Returns the result in `workdir` if it is that of a run with `fields`."""
    result = files.read_json(workdir / FILE)
    if not isinstance(result, dict):
        return None
    asked = {name: fields[name] for name in _ASKED}
    same = (
        result.get("config_hash") == resume.fingerprint(fields)
        and result.get("config") == asked
    )
    whole = result.keys() >= _SHOWN and any(
        {f"{split}_accuracy", f"{split}_accuracy_tta"} <= result.keys()
        for split in ("test", "validation")
    )
    return result if same and whole else None
