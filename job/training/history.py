"""Metadata of a run, stored in its checkpoints.

history = History(fields, data_crc32c, step=40, resumes=1)
history.begin(replicas=1, train_steps=100)
history.to_metadata(60, replicas=1)      # the `run` part of a checkpoint
tensors[METRICS_TENSOR] = pack_metrics(lines)
"""

import copy
import dataclasses
import datetime
import itertools
import platform
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from job.config import resume

# Key of the held-out accuracy in the metadata of a checkpoint.
BEST_BY = "validation_accuracy"

# Name of the tensor that holds the metrics log up to a checkpoint's step.
METRICS_TENSOR = "metrics_log"

# Maximum number of stored attempts.
_MAX_STARTS = 100


@dataclasses.dataclass
class History:
    """Metadata of a run, the `run` part of a checkpoint.

    Attributes:
      fields: Flattened config.
      data_crc32c: Checksum of the training split.
      step: Number of completed steps at the start of this attempt.
      resumes: Number of resumes from a checkpoint.
      train_seconds: Saved time in the loop over all attempts, in seconds.
      compile_seconds: Compile time of the newest attempt in seconds, from the
        first call of each phase, without its steps.
      rollbacks: Bad step, step of the checkpoint and new learning rate factor
        of each rollback.
      starts: Hardware, versions and first step of each attempt, the newest
        last.
      metrics_lines: Lines of metrics.jsonl at the time of the checkpoint. If
        None, they are unknown.
      validation: Step and accuracy, 0 to 1, of the newest evaluation on a
        held-out slice.
    """

    # Keys that a resume requires.
    KEYS: ClassVar[frozenset[str]] = frozenset(
        [
            "config",
            "data_crc32c",
            "resumes",
            "train_seconds",
            "compile_seconds",
            "rollbacks",
        ]
    )

    fields: dict[str, Any]
    data_crc32c: str
    step: int = 0
    resumes: int = 0
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    rollbacks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    metrics_lines: list[str] | None = None
    validation: tuple[int, float] | None = None

    def begin(self, replicas: int, train_steps: int) -> None:
        """Adds this attempt and logs its differences from the previous one.

        Args:
          replicas: Number of replicas.
          train_steps: Number of steps of the run.
        """
        now = datetime.datetime.now(datetime.UTC)
        start = {
            "step": self.step,
            "replicas": replicas,
            "train_steps": train_steps,
            "host": platform.node(),
            "versions": _versions(),
            "time": now.isoformat(timespec="seconds"),
        }
        for name in ("replicas", "versions") if self.starts else ():
            before = self.starts[-1].get(name)
            if before != start[name]:
                logging.info(
                    "Changed %s from %s to %s", name, before, start[name]
                )
        planned = self.planned_steps()
        if planned and planned[-1] != train_steps:
            logging.warning(
                "Changed the length of the run from %d to %d steps, which the"
                " learning rate follows from now on. Fix: choose another"
                " workdir for a single schedule",
                planned[-1],
                train_steps,
            )
        self.starts = [*self.starts[1 - _MAX_STARTS :], start]

    def planned_steps(self) -> list[int]:
        """Returns the planned lengths of the run in steps, the oldest first."""
        planned = [s["train_steps"] for s in self.starts if "train_steps" in s]
        return [steps for steps, _ in itertools.groupby(planned)]

    def to_metadata(self, step: int, replicas: int) -> dict[str, Any]:
        """Returns the `run` part of a checkpoint.

        Mutable values are copied, because another thread writes them.

        Args:
          step: Step of the checkpoint.
          replicas: Number of replicas.
        """
        scored, accuracy = self.validation or (None, None)
        return {
            "config": self.fields,
            "config_hash": resume.fingerprint(self.fields),
            "seed": self.fields["seed"],
            "data_crc32c": self.data_crc32c,
            "replicas": replicas,
            "resumes": self.resumes,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "rollbacks": copy.deepcopy(self.rollbacks),
            "versions": _versions(),
            "starts": copy.deepcopy(self.starts),
            BEST_BY: accuracy if scored == step else None,
        }


def pack_metrics(lines: Sequence[str]) -> np.ndarray:
    """Returns the lines of a metrics log as a tensor, uint8 [bytes]."""
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def pop_metrics(tensors: dict[str, np.ndarray]) -> list[str] | None:
    """Removes and returns the metrics log of a checkpoint.

    Args:
      tensors: Tensors of the checkpoint.

    Returns:
      The lines of the log, or None if the checkpoint has no log.
    """
    log = tensors.pop(METRICS_TENSOR, None)
    if log is None:
        return None
    return log.tobytes().decode(errors="replace").splitlines()


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
