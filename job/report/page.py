"""Report of one run, the self-contained page WORKDIR/report.html.

    write(pathlib.Path("runs/a"))      # a run in progress or a finished one

The page names the files that are absent or damaged and shows the others. It
loads nothing from a server. The module does not import TensorFlow.
"""

import datetime
import math
import pathlib
from typing import Any

from markupsafe import Markup

from configs import default
from job.config import serialization
from job.output.predictions import Predictions
from job.report import charts, render
from job.report import run as run_lib
from job.report.charts import Series
from job.report.render import is_number
from job.storage import files
from job.storage.workdir import REPORT, Workdir

# Upper end of the loss axis. Guessing has a loss of about 2.3, and a run with a
# much larger one diverges.
_LARGE_LOSS = 30.0
# Accuracy in percent below which a zoomed axis would show only noise.
_LOW_ACCURACY = 30.0


def write(workdir: Workdir) -> pathlib.Path:
    """Writes the page of a run into its workdir and returns its path.

    Args:
      workdir: Workdir of the run, finished or not.

    Raises:
      ConfigError: `workdir` does not contain a run.
      StorageError: The page cannot be written.
    """
    path = workdir.local / REPORT
    files.write_atomically(path, to_html(run_lib.read(workdir)))
    return path


def to_html(run: run_lib.Run) -> bytes:
    """Returns the page of a run in UTF-8."""
    return render.html(
        "page.html.j2",
        run=run,
        title=pathlib.PurePath(run.name).name or run.name,
        epochs=_last(run, "epoch"),
        train_images=_train_images(run),
        newest_accuracy=_last(run, "accuracy", run.split),
        facts=run_lib.texts(run.diagnosis.get("facts")),
        learning_curves=_learning_curves(run) if run.lines else [],
        smoothing_floor=_smoothing_floor(run),
        rates=_rates(run),
        calibration=_calibration(run),
        class_rows=_class_rows(run.scored) if run.scored else [],
        clock_seconds=_clock_seconds(run),
        train_seconds=(run.result or run.manifest).get("train_seconds"),
        rollbacks=run.manifest.get("rollbacks", []),
        defaults=serialization.flatten(default.get_config()),
    )


def _last(run: run_lib.Run, name: str, split: str = "train") -> float | None:
    """Returns the last value of a column of the metrics log."""
    _, values = run.of(split, name)
    return values[-1] if values else None


def _train_images(run: run_lib.Run) -> int | None:
    """Returns the number of training images, or None if unknown."""
    step, epoch = _last(run, "step"), _last(run, "epoch")
    if not step or not epoch:
        return None
    return round(step * run.setting("global_batch_size") / epoch)


def _smoothing_floor(run: run_lib.Run) -> float:
    """Returns the minimum training loss with label smoothing.

    It is the entropy of a target with 1 - s + s/k for the correct class and s/k
    for each other class (Szegedy et al. 2016, arXiv:1512.00567).
    """
    smoothing, classes = run.setting("optimizer.label_smoothing"), _classes(run)
    if not 0 < smoothing < 1:
        return 0.0
    off = smoothing / classes
    right = 1 - smoothing + off
    return -right * math.log(right) - (classes - 1) * off * math.log(off)


def _classes(run: run_lib.Run) -> int:
    return len(run.scored.class_names) if run.scored else 10


def _learning_curves(run: run_lib.Run) -> list[Markup]:
    """Returns the charts of loss and accuracy over the epochs."""
    floor, guess = _smoothing_floor(run), math.log(_classes(run))
    losses, accuracies = [], []
    for split in ("train", run.split):
        marked = split != "train"
        epochs, values = run.of(split, "loss")
        if not marked:
            # As in the evaluation, the minimum is 0 and guessing has ln k.
            scale = guess / (guess - floor)
            values = [scale * (value - floor) for value in values]
        losses.append(Series(split, epochs, values, marked))
        epochs, values = run.of(split, "accuracy")
        percents = [100 * value for value in values]
        accuracies.append(Series(split, epochs, percents, marked))
    is_large = max(max(x.ys, default=0) for x in losses) > _LARGE_LOSS
    best = max(max(x.ys, default=0) for x in accuracies)
    loss = charts.curves(
        [line for line in losses if line.xs],
        x="epoch",
        y="loss",
        title="Loss",
        low=None if is_large else 0,
        log=is_large,
        form=".3g",
    )
    accuracy = charts.curves(
        [line for line in accuracies if line.xs],
        x="epoch",
        y="accuracy, %",
        title="Accuracy",
        low=0 if best < _LOW_ACCURACY else None,
    )
    return [
        charts.to_svg(loss, "loss over the epochs"),
        charts.to_svg(accuracy, "accuracy over the epochs"),
    ]


def _rates(run: run_lib.Run) -> list[Markup]:
    """Returns the charts of learning rate and throughput over the epochs."""
    step, epoch = _last(run, "step"), _last(run, "epoch")
    marks = [
        start["step"] * epoch / step
        for start in run.starts
        if step and epoch and is_number(start.get("step")) and start["step"]
    ]
    found = []
    for name, title, y in (
        ("learning_rate", "Learning rate", "learning rate"),
        ("images_per_second", "Throughput", "images/s"),
    ):
        epochs, values = run.of("train", name)
        if not epochs:
            continue
        figure = charts.curves(
            [Series("", epochs, values)],
            x="epoch",
            y=y,
            title=title,
            marks=marks if name == "images_per_second" else (),
            low=0,
        )
        found.append(charts.to_svg(figure, f"{title} over the epochs"))
    return found


def _calibration(run: run_lib.Run) -> Markup | None:
    """Returns the reliability diagram."""
    if not run.scored:
        return None
    figure = charts.reliability(run.scored.calibration(), title="Reliability")
    return charts.to_svg(figure, "accuracy over confidence")


def _clock_seconds(run: run_lib.Run) -> float | None:
    """Returns the time from the first start to the end of the run."""
    begun = _seconds(run.starts[0].get("time")) if run.starts else None
    ended = _seconds(run.result.get("ended"))
    return None if begun is None or ended is None else max(0.0, ended - begun)


def _class_rows(scored: Predictions) -> list[tuple[str, float, str, float]]:
    """Returns the accuracy and the most frequent confusion of each class.

    Returns:
      Name, accuracy, most frequent wrong prediction, and its fraction of the
      class. A few classes are in the order of the labels, many in the order of
      the accuracy.
    """
    names, rows = scored.class_names, []
    for index, counts in enumerate(scored.confusion()):
        fractions = counts / max(counts.sum(), 1)
        right, fractions[index] = float(fractions[index]), 0.0
        worst = int(fractions.argmax())
        rows.append(
            (names[index], right, names[worst], float(fractions[worst]))
        )
    return rows if len(rows) <= 20 else sorted(rows, key=lambda row: row[1])


def _seconds(time: Any) -> float | None:
    """Returns an ISO 8601 time in seconds since the epoch, None if invalid."""
    try:
        return datetime.datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
