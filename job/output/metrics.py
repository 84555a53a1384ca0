"""Metrics log of a run: metrics.jsonl and TensorBoard events.

metrics.jsonl has exactly one line per logged step and split, even after kills
and resumes. Each attempt rewrites the events from it, so that they show each
step once too.

    log = MetricsLog(workdir, first_step=0)
    log.write({"step": 50, "split": "train", "loss": 2.1})
    log.sync()                  # before a checkpoint is committed

The log can be read without TensorFlow.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from job import errors
from job.storage import files, reader
from job.storage.reader import Number
from job.storage.workdir import EVENTS, METRICS

_LABELS = ("step", "split")
# Contents of a line; see `reader.Kind`.
_KIND = {
    "step": Number(0, whole=True),
    "split": str,
    "epoch?": Number(0.0),
    "loss?": Number(null=True),
    # A mean of float32 numbers may be slightly above 1.
    "accuracy?": Number(0.0, 1.001),
    "learning_rate?": Number(0.0, null=True),
    "images_per_second?": Number(1e-9, null=True),
    "train_tflop?": Number(0.0),
}
# Size limit of the file, enough for a million steps.
_MAX_BYTES = 2**28


class MetricsLog:
    """Metrics log of a run, open for appending."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        hparams: Mapping[str, Any] | None = None,
        picture: pathlib.Path | None = None,
    ) -> None:
        """Opens the log and drops lines after `first_step`.

        These lines are from an attempt that was killed before its next
        checkpoint. This attempt writes them again.

        Args:
          workdir: Folder of the run, which must exist.
          first_step: Step at which this attempt starts.
          hparams: Dotted field names and values for TensorBoard's HParams
            dashboard. If None, the run does not appear there.
          picture: PNG for TensorBoard, named after the file. If None, no image
            is shown.
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
        restore(self._workdir, self.lines())
        self._file = (self._workdir / METRICS).open("a", encoding="utf-8")
        self._written = {(line["step"], line["split"]) for line in kept}
        events = self._workdir / EVENTS
        if events.is_symlink():  # Its target may belong to another run.
            raise errors.StorageError(
                f"{events}: the folder is a link. Fix: remove the link"
            )
        with self._writing_events():
            for old in events.glob("*.tfevents.*"):
                old.unlink(missing_ok=True)
            self._events = tf.summary.create_file_writer(str(events))
        self._write_run_metadata()
        for line in kept:
            self._write_event(line)

    def rewind(self, step: int) -> None:
        """Drops lines after `step`, as at the start of an attempt."""
        self.close()
        self._open(step)

    def has(self, step: int, split: str) -> bool:
        """Returns whether the log contains the line of a step and split."""
        return (step, split) in self._written

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line of `step`, `split` and scalars."""
        line = files.finite(line)
        with files.translate_errors(self._workdir / METRICS):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._lines.append(line)
        self._written.add((line["step"], line["split"]))
        self._write_event(line)

    def sync(self) -> None:
        """Flushes every line to the disk."""
        with files.translate_errors(self._workdir / METRICS):
            os.fsync(self._file.fileno())
        with self._writing_events():
            self._events.flush()

    def lines(self) -> list[str]:
        """Returns all lines so far as JSON, for a checkpoint."""
        return [json.dumps(line) for line in self._lines]

    def close(self) -> None:
        """Closes the log, after which only `rewind` is permitted."""
        self.sync()
        self._file.close()
        self._events.close()

    def rewrite_if_changed(self) -> None:
        """Rewrites the file if another process has changed it.

        Such a process may have started the same run and lost the race.
        """
        if [json.dumps(line) for line in read(self._workdir)] != self.lines():
            restore(self._workdir, self.lines())

    def _write_run_metadata(self) -> None:
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        with self._writing_events(), self._events.as_default():
            if self._hparams is not None:
                # HParams accepts only numbers, strings and booleans.
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
        """Translates TensorFlow's errors, such as that of a full disk."""
        import tensorflow as tf

        return files.translate_errors(self._workdir / EVENTS, tf.errors.OpError)

    def _write_event(self, line: dict[str, Any]) -> None:
        import tensorflow as tf

        with self._writing_events(), self._events.as_default():
            for name, value in line.items():
                if name not in _LABELS and value is not None:
                    tag = f"{line['split']}/{name}"
                    tf.summary.scalar(tag, value, step=line["step"])


def restore(workdir: pathlib.Path, lines: list[str]) -> None:
    """Restores the metrics log from a checkpoint.

    Args:
      workdir: Folder of the run, which must exist.
      lines: Lines of the log as JSON; see `MetricsLog.lines`.
    """
    text = "".join(f"{line}\n" for line in lines)
    files.write_atomically(workdir / METRICS, text.encode())


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics log, up to the first invalid one."""
    return inspect(workdir).value or []


def inspect(workdir: pathlib.Path) -> reader.Reading[list[dict[str, Any]]]:
    """Returns the lines up to the first invalid one, and a note about it."""
    path = workdir / METRICS
    lines: list[dict[str, Any]] = []
    try:
        content = reader.read_bytes(path, max_bytes=_MAX_BYTES) or b""
        for text in content.splitlines():
            place = f"{path}, line {len(lines) + 1}"
            lines.append(reader.parse_json(text, _KIND, place))
    except reader.DamagedError as error:
        return reader.Reading(lines, str(error))
    return reader.Reading(lines)
