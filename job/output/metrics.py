"""What was measured, step by step: metrics.jsonl and TensorBoard events.

metrics.jsonl is the record: a line a logged step and split, once, however
often the run was killed and resumed. The events are made from it, and made
anew by each start, so that they too show each step once.

    log = MetricsLog(workdir, first_step=0)
    log.write({"step": 50, "split": "train", "loss": 2.1})
    log.sync()                  # before a checkpoint is committed

Reading it needs no TensorFlow.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from job.storage import files
from job.storage.workdir import EVENTS, METRICS

_LABELS = ("step", "split")


class MetricsLog:
    """Appends to a run's record."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        hparams: Mapping[str, Any] | None = None,
        picture: pathlib.Path | None = None,
    ) -> None:
        """Opens the record, and forgets what lies ahead of `first_step`.

        Lines of later steps were written by an attempt that was killed before
        its next checkpoint; this one writes them again.

        Args:
          workdir: of the run; must exist.
          first_step: steps done when this attempt starts.
          hparams: what TensorBoard's HParams compares runs by: dotted field
            names to values; None: not among them.
          picture: a PNG that it shows, named as the file is; None: none.
        """
        self._hparams = hparams
        self._picture = picture
        self._workdir = workdir
        self._lines = read(workdir)
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        import tensorflow as tf

        kept = [line for line in self._lines if line["step"] <= first_step]
        self._lines = kept
        put_back(self._workdir, self.lines())
        self._file = (self._workdir / METRICS).open("a", encoding="utf-8")
        self._written = {(line["step"], line["split"]) for line in kept}
        events = self._workdir / EVENTS
        for old in events.glob("*.tfevents.*"):
            old.unlink(missing_ok=True)
        self._events = tf.summary.create_file_writer(str(events))
        self._write_what_it_is_of()
        for line in kept:
            self._write_event(line)

    def rewind(self, step: int) -> None:
        """Forgets what lies ahead of `step`, as a new start would."""
        self.close()
        self._open(step)

    def has(self, step: int, split: str) -> bool:
        """Says whether the record has the line of a step and split."""
        return (step, split) in self._written

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line: `step`, `split`, and scalars."""
        with files.translate_errors(self._workdir / METRICS):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._lines.append(line)
        self._written.add((line["step"], line["split"]))
        self._write_event(line)

    def sync(self) -> None:
        """Returns when every line is on the disk."""
        with files.translate_errors(self._workdir / METRICS):
            os.fsync(self._file.fileno())
        with self._writing_events():
            self._events.flush()

    def lines(self) -> list[str]:
        """Returns all lines so far, as JSON, for a checkpoint to keep."""
        return [json.dumps(line) for line in self._lines]

    def close(self) -> None:
        """Ends the record; nothing but `rewind` may follow."""
        self.sync()
        self._file.close()
        self._events.close()

    def settle(self) -> None:
        """Leaves the record of this start, whoever else wrote into the file.

        Another process may have begun on the same run, and given up.
        """
        if [json.dumps(line) for line in read(self._workdir)] != self.lines():
            put_back(self._workdir, self.lines())

    def _write_what_it_is_of(self) -> None:
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        with self._writing_events(), self._events.as_default():
            if self._hparams is not None:
                # It knows numbers, strings and truth values.
                api.hparams(
                    {
                        name: value
                        if isinstance(value, bool | int | float | str)
                        else json.dumps(value)
                        for name, value in self._hparams.items()
                    }
                )
            if self._picture is not None and self._picture.exists():
                image = tf.io.decode_png(self._picture.read_bytes())
                tf.summary.image(self._picture.stem, image[None], step=0)

    def _writing_events(self) -> contextlib.AbstractContextManager[None]:
        """Translates TensorFlow's errors, of a full disk for example."""
        import tensorflow as tf

        return files.translate_errors(self._workdir / EVENTS, tf.errors.OpError)

    def _write_event(self, line: dict[str, Any]) -> None:
        import tensorflow as tf

        with self._writing_events(), self._events.as_default():
            for name, value in line.items():
                if name not in _LABELS and value is not None:
                    tag = f"{line['split']}/{name}"
                    tf.summary.scalar(tag, value, step=line["step"])


def put_back(workdir: pathlib.Path, lines: list[str]) -> None:
    """Sets the record to what a checkpoint says it was.

    Args:
      workdir: of the run; must exist.
      lines: as `MetricsLog.lines` returned them.
    """
    text = "".join(f"{line}\n" for line in lines)
    files.write_atomically(workdir / METRICS, text.encode())


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's record, up to one that is none."""
    path = workdir / METRICS
    lines = []
    if path.exists():
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict) or not {*_LABELS} <= line.keys():
                break
            lines.append(line)
    return lines
