"""What a run knows of its earlier starts, and hands on to later ones.

history = History(fields, data_crc32c, step=40, resumes=1)
history.begin(replicas=1, train_steps=100)
history.to_manifest(60, 1, record)       # a checkpoint's `run` part
"""

import copy
import dataclasses
import datetime
import itertools
import platform
from typing import Any, ClassVar

import keras
import tensorflow as tf
from absl import logging

from job.config import resume

# Where a manifest says how good a checkpoint is: accuracy on a held-out slice.
BEST_BY = "validation_accuracy"

# So many starts are remembered.
_MAX_STARTS = 100


@dataclasses.dataclass
class History:
    """What a run knows of its earlier starts; a checkpoint's `run` part.

    Attributes:
      fields: the flattened config.
      data_crc32c: of the training split.
      step: steps done when this start began.
      resumes: how often the run went on from a checkpoint.
      train_seconds: in the loop, over all starts, as far as it was saved.
      compile_seconds: of the newest start: of each phase's first call, less its
        steps.
      rollbacks: for each, the step that was bad, the step it went back to, and
        the learning rate's factor from there on.
      starts: what each start ran on, and from which step; the newest last.
      record: the lines of metrics.jsonl when it was saved; None: unknown.
      validation: step and accuracy, 0 to 1, of the newest evaluation on a
        held-out slice.
    """

    # What a checkpoint must say of its run, for a later start.
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
    record: list[str] | None = None
    validation: tuple[int, float] | None = None

    def begin(self, replicas: int, train_steps: int) -> None:
        """Notes what this start is, and logs what is not as before."""
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
                logging.info("%s: %s, were %s", name, start[name], before)
        planned = self.planned_steps()
        if planned and planned[-1] != train_steps:
            logging.warning(
                "the run was planned for %d steps and is for %d from here on:"
                " so is the course of its learning rate; for a run that is so"
                " from its start, choose another workdir",
                planned[-1],
                train_steps,
            )
        self.starts = [*self.starts[1 - _MAX_STARTS :], start]

    def planned_steps(self) -> list[int]:
        """Returns for how many steps the run was meant, at first and since."""
        planned = [s["train_steps"] for s in self.starts if "train_steps" in s]
        return [steps for steps, _ in itertools.groupby(planned)]

    def to_manifest(
        self, step: int, replicas: int, record: list[str]
    ) -> dict[str, Any]:
        """Returns the manifest's `run` for a checkpoint of `step`.

        Whatever changes later is copied: it is written by another thread.
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
            "record": record,
        }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
