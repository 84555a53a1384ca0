"""The report of one run: WORKDIR/report.html, one self-contained page.

    write(pathlib.Path("runs/a"))      # of a run in progress or a finished one

Reads the small files of a workdir and the newest manifest. The page names the
files that are absent (a run in progress has no result yet, a run of an earlier
version no predictions) and shows the rest. It loads nothing from a server, and
all text from a config is escaped. Imports no TensorFlow.
"""

import datetime
import json
import pathlib
import string
from typing import Any

from configs import default
from job.checkpoint import store
from job.config import serialization
from job.report import charts, classification, markup
from job.report import run as run_lib
from job.report.charts import Series
from job.storage import files
from job.storage.workdir import (
    AUGMENTATION,
    METRICS,
    REPORT,
)

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def write(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore | None = None,
    *,
    name: str = "",
) -> pathlib.Path:
    """Writes the page of a run into its workdir; returns the page's path.

    Args:
      workdir: Folder of the run, finished or not.
      checkpoints: Checkpoints of the run. If None, those in `workdir`.
      name: Workdir as the user gave it. If "", the path of `workdir`.

    Raises:
      ConfigError: `workdir` does not contain a run.
      StorageError: The page cannot be written.
    """
    run = run_lib.read(workdir, checkpoints, name=name)
    page = to_html(run)
    files.write_atomically(workdir / REPORT, page.encode())
    return workdir / REPORT


def to_html(run: run_lib.Run) -> str:
    """Returns the page as HTML."""
    body = [
        _header(run),
        _tiles(run),
        markup.section("Learning curves", _learning_curves(run)),
        markup.section("Learning rate and throughput", _rates(run)),
        *classification.sections(run),
        markup.section("Augmentation", _augmentation(run)),
        markup.section("Starts, and what they cost", _starts(run)),
        markup.section("Config", _config(run)),
    ]
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=markup.escape(
            f"{pathlib.PurePath(run.name).name}: VGG16 on CIFAR-10"
        ),
        body="\n".join(body),
    )


def _header(run: run_lib.Run) -> str:
    if run.result:
        state = f"Finished after {run.result.get('train_steps', '?')} steps."
    elif run.step:
        state = (
            f"Not finished: the newest checkpoint is of step {run.step}. What"
            " is made at the end is not there yet."
        )
    else:
        state = "Not finished, and without a checkpoint yet."
    return (
        f"<header><h1>{markup.escape(run.name)}</h1>"
        f'<p class="soft">{markup.escape(state)}</p></header>'
    )


def _tiles(run: run_lib.Run) -> str:
    result, split = run.result or {}, run.split
    figures = [
        (markup.percent(result.get(f"{split}_accuracy")), f"{split} accuracy"),
        (
            markup.percent(result.get(f"{split}_accuracy_tta")),
            "with mirror images",
        ),
        (markup.number(result.get(f"{split}_loss"), ".3f"), f"{split} loss"),
        (
            markup.percent(run.scored.calibration_error())
            if run.scored
            else "",
            "calibration error",
        ),
        (markup.duration(result.get("train_seconds")), "in the training loop"),
        (
            markup.number(result.get("images_per_second"), ",.0f"),
            "images/s, median",
        ),
        (markup.number(result.get("params"), ",.0f"), "parameters"),
        (markup.number(result.get("train_tflop"), ",.0f"), "TFLOP to train"),
        (markup.number(result.get("replicas"), "d"), "replicas"),
        (str(result.get("precision", "")), "arithmetic"),
        (markup.number(run.fields.get("seed"), "d"), "seed"),
        (markup.number(len(run.starts) or None, "d"), "starts"),
    ]
    if not run.result:
        _, newest = run.of(split, "accuracy")
        figures[0] = (markup.percent(newest[-1] if newest else None), "so far")
    tiles = [
        f'<div class="tile{" main" if index == 0 else ""}"><b>'
        f"{markup.escape(value)}</b><span>{markup.escape(what)}</span></div>"
        for index, (value, what) in enumerate(figures)
        if value
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _learning_curves(run: run_lib.Run) -> str:
    if not run.lines:
        return markup.missing(f"{METRICS} has no line yet.")
    charts_ = []
    for name, factor, unit in (("loss", 1, ""), ("accuracy", 100, ", %")):
        series = []
        for split in ("train", run.split):
            epochs, values = run.of(split, name)
            values = [factor * value for value in values]
            series.append(Series(split, epochs, values, split != "train"))
        chart = charts.curves(
            [line for line in series if line.xs],
            x="epoch",
            y=name + unit,
            title=f"{name} over the epochs",
        )
        charts_.append(markup.figure(name.capitalize(), chart))
    note = (
        "Of training: the mean since the line before, on augmented images, with"
        " the weights of that moment."
    )
    if run.fields.get("optimizer.ema_decay"):
        note += f" Of {run.split}: with the averaged weights."
    return f'{markup.pair(charts_)}<p class="soft">{note}</p>'


def _rates(run: run_lib.Run) -> str:
    charts_ = []
    batch = run.fields.get("global_batch_size", 0)
    epochs, rates = run.of("train", "images_per_second")
    if not epochs:
        return markup.missing(f"{METRICS} has no line of training yet.")
    steps = [x["step"] for x in run.lines if x["split"] == "train"]
    per_epoch = steps[-1] / epochs[-1] if epochs[-1] else 0.0
    marks = [
        start["step"] / per_epoch
        for start in run.starts
        if start.get("step") and per_epoch
    ]
    xs, ys = run.of("train", "learning_rate")
    chart = charts.curves(
        [Series("", xs, ys)],
        x="epoch",
        y="learning rate",
        title="learning rate over the epochs",
        low=0,
    )
    charts_.append(markup.figure("Learning rate", chart))
    chart = charts.curves(
        [Series("", epochs, rates)],
        x="epoch",
        y="images/s",
        title="images per second over the epochs",
        marks=marks,
        low=0,
    )
    note = f"Global batch: {batch} images."
    if marks:
        note += " Dotted: where a later start went on."
    charts_.append(markup.figure("Throughput", chart, note))
    return markup.pair(charts_)


def _augmentation(run: run_lib.Run) -> str:
    if run.augmentation is None:
        return markup.missing(f"{AUGMENTATION} is missing.")
    return (
        '<p class="soft">First row: images as they are; below, as the network'
        " sees them, with other draws in each row.</p>"
        f'<img class="augmentation" src="{markup.data_url(run.augmentation)}"'
        ' alt="eight images, augmented">'
    )


def _starts(run: run_lib.Run) -> str:
    if not run.starts:
        return markup.missing("No checkpoint tells of them yet.")
    rows = [
        [
            _when(start.get("time")),
            markup.escape(start.get("step", "?")),
            markup.escape(start.get("replicas", "?")),
            markup.escape(start.get("host", "?")),
            markup.escape(start.get("versions", {}).get("tensorflow", "?")),
        ]
        for start in run.starts
    ]
    parts = [
        _cost(run),
        markup.table(
            ["time (UTC)", "from step", "replicas", "host", "TF"], rows
        ),
    ]
    if rollbacks := run.manifest.get("rollbacks"):
        rows = [
            [
                markup.escape(r.get(k, "?"))
                for k in ("bad_step", "to_step", "factor")
            ]
            for r in rollbacks
        ]
        heads = ["step that was not finite", "back to step", "rate times"]
        parts += ["<h3>Rollbacks</h3>", markup.table(heads, rows)]
    return "".join(parts)


def _cost(run: run_lib.Run) -> str:
    """Returns a paragraph on the run's wall time and the time in training."""
    count = len(run.starts)
    said = f"{count} start{'s' if count > 1 else ''}"
    begun = _seconds(run.starts[0].get("time"))
    ended = _seconds((run.result or {}).get("ended"))
    trained = (run.result or run.manifest).get("train_seconds")
    if begun is None or ended is None or not isinstance(trained, int | float):
        return f"<p>{said}.</p>"
    clock = max(ended - begun, trained)
    rest = clock - trained
    causes = "the rest is what comes before the first step and after the last"
    if count > 1:
        causes = (
            "the rest is starting up again, waiting for a place to run on, and"
            " steps that were done twice because they had not been saved"
        )
    return (
        f"<p>{said}. From the first to the end of the run"
        f" {markup.duration(clock)} by the clock;"
        f" {markup.duration(trained)} of them were"
        f" kept work in the training loop, {markup.duration(rest)}"
        f" ({rest / max(clock, 1e-9):.0%}) were not: {causes}.</p>"
    )


def _config(run: run_lib.Run) -> str:
    base = serialization.flatten(default.get_config())
    rows = [
        [
            f"<code>{markup.breakable(name)}</code>",
            markup.json_value(base[name])
            if name in base
            else "not a field of this version",
            markup.json_value(value),
        ]
        for name, value in run.fields.items()
        if name not in base or base[name] != value
    ]
    table = (
        markup.table(["field", "default.py", "this run"], rows)
        if rows
        else "<p>No field differs from configs/default.py.</p>"
    )
    whole = "\n".join(
        f"{name} = {json.dumps(value)}" for name, value in run.fields.items()
    )
    return (
        f"{table}<details><summary>All {len(run.fields)} fields"
        f"</summary><pre>{markup.escape(whole)}</pre></details>"
    )


def _seconds(time: Any) -> float | None:
    """Returns an ISO 8601 time in seconds since the epoch; None if invalid."""
    try:
        return datetime.datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return None


def _when(time: Any) -> str:
    return markup.escape(str(time or "?").replace("T", " ").partition("+")[0])
