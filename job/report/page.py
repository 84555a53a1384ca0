"""One run on one page: WORKDIR/report.html, which needs nothing else.

    write(pathlib.Path("runs/a"))      # of a finished run, or one that goes on

Reads the small files of a workdir and the newest manifest. What is not there
(a run that goes on has no result yet, one of an earlier version no
predictions) is named on the page, and the rest is shown. The page asks no
server for anything, and all that comes from a config is escaped. Imports no
TensorFlow.
"""

import base64
import datetime
import html
import io
import json
import math
import pathlib
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from configs import default
from job.checkpoint import store
from job.config import serialization
from job.output import predictions
from job.report import charts
from job.report import run as run_lib
from job.report.charts import Series
from job.storage import files
from job.storage.workdir import (
    AUGMENTATION,
    COMMAND,
    METRICS,
    PREDICTIONS,
    REPORT,
)

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def write(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore | None = None,
    *,
    name: str = "",
) -> pathlib.Path:
    """Writes the page of a run into its workdir; returns where it is.

    Args:
      workdir: of the run, finished or not.
      checkpoints: of the run; None: those in `workdir`.
      name: what people call the workdir; "": its path.

    Raises:
      ConfigError: there is no run in `workdir`.
      StorageError: the page cannot be written.
    """
    run = run_lib.read(workdir, checkpoints, name=name)
    page = to_html(run)
    files.write_atomically(workdir / REPORT, page.encode())
    return workdir / REPORT


def to_html(run: run_lib.Run) -> str:
    """Returns the page."""
    body = [
        _header(run),
        _tiles(run),
        _section("Learning curves", _learning_curves(run)),
        _section("Learning rate and throughput", _rates(run)),
        *_scored_sections(run),
        _section("Augmentation", _augmentation(run)),
        _section("Starts, and what they cost", _starts(run)),
        _section("Config", _config(run)),
    ]
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(f"{pathlib.PurePath(run.name).name}: VGG16 on CIFAR-10"),
        body="\n".join(body),
    )


def _header(run: run_lib.Run) -> str:
    named = run.command.get("config")
    if run.result:
        state = f"Finished after {run.result.get('train_steps', '?')} steps."
    elif run.step:
        state = (
            f"Not finished: the newest checkpoint is of step {run.step}. What"
            " is made at the end is not there yet."
        )
    else:
        state = "Not finished, and without a checkpoint yet."
    source = f"Config: <code>{_text(named)}</code>. " if named else ""
    return (
        f"<header><h1>{_text(run.name)}</h1>"
        f'<p class="soft">{source}{_text(state)}</p></header>'
    )


def _tiles(run: run_lib.Run) -> str:
    result, split = run.result or {}, run.split
    figures = [
        (_percent(result.get(f"{split}_accuracy")), f"{split} accuracy"),
        (_percent(result.get(f"{split}_accuracy_tta")), "with mirror images"),
        (_number(result.get(f"{split}_loss"), ".3f"), f"{split} loss"),
        (
            _percent(run.scored.calibration_error()) if run.scored else "",
            "calibration error",
        ),
        (_duration(result.get("train_seconds")), "in the training loop"),
        (_number(result.get("images_per_second"), ",.0f"), "images/s, median"),
        (_number(result.get("params"), ",.0f"), "parameters"),
        (_number(result.get("train_tflop"), ",.0f"), "TFLOP to train"),
        (_number(result.get("replicas"), "d"), "replicas"),
        (str(result.get("precision", "")), "arithmetic"),
        (_number(run.fields.get("seed"), "d"), "seed"),
        (_number(len(run.starts) or None, "d"), "starts"),
    ]
    if not run.result:
        _, newest = run.of(split, "accuracy")
        figures[0] = (_percent(newest[-1] if newest else None), "so far")
    tiles = [
        f'<div class="tile{" main" if place == 0 else ""}"><b>{_text(value)}'
        f"</b><span>{_text(what)}</span></div>"
        for place, (value, what) in enumerate(figures)
        if value
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _learning_curves(run: run_lib.Run) -> str:
    if not run.lines:
        return _missing(f"There is no line in {METRICS} yet.")
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
        charts_.append(_figure(name.capitalize(), chart))
    note = (
        "Of training: the mean since the line before, on augmented images, with"
        " the weights of that moment."
    )
    if run.fields.get("optimizer.ema_decay"):
        note += f" Of {run.split}: with the averaged weights."
    return f'{_pair(charts_)}<p class="soft">{note}</p>'


def _rates(run: run_lib.Run) -> str:
    charts_ = []
    batch = run.fields.get("global_batch_size", 0)
    epochs, rates = run.of("train", "images_per_second")
    if not epochs:
        return _missing(f"There is no line of training in {METRICS} yet.")
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
    charts_.append(_figure("Learning rate", chart))
    chart = charts.curves(
        [Series("", epochs, rates)],
        x="epoch",
        y="images/s",
        title="images a second over the epochs",
        marks=marks,
        low=0,
    )
    note = f"Global batch: {batch} images."
    if marks:
        note += " Dotted: where a later start went on."
    charts_.append(_figure("Throughput", chart, note))
    return _pair(charts_)


def _scored_sections(run: run_lib.Run) -> Iterable[str]:
    if run.scored is None:
        what = (
            "this run was made before they were kept"
            if run.result
            else "they are made at the end of the run"
        )
        yield _section(
            "Classes, calibration, mistakes",
            _missing(
                f"There is no {PREDICTIONS}: {what}. So there is no"
                " confusion matrix, no reliability diagram and no list of"
                " mistakes."
            ),
        )
        return
    scored = run.scored
    yield _section(
        "Classes",
        _pair([_confusion(scored), _per_class(scored)]),
    )
    error, bins = scored.calibration_error(), scored.calibration()
    confidence = float(scored.confidence.mean())
    tends = "over" if confidence > scored.accuracy else "under"
    diagram = _figure(
        "",
        charts.reliability(bins, title="accuracy against confidence"),
    )
    yield _section(
        "Calibration",
        _pair(
            [
                diagram,
                f"<div><p>Expected calibration error (ECE, {len(bins)} bins):"
                f" <b>{_percent(error)}</b>.</p><p>Mean confidence"
                f" {_percent(confidence)}, accuracy {_percent(scored.accuracy)}"
                f": it is {tends}confident on the whole.</p>"
                '<p class="soft">A bar below the dashed line: there the network'
                " is surer than it is right. Label smoothing and averaged"
                " weights tend to leave it less sure than it could be.</p>"
                "</div>",
            ]
        ),
    )
    yield _section(
        f"The {len(scored.mistakes)} most confident mistakes",
        _mistakes(scored),
    )


def _confusion(scored: predictions.Predictions) -> str:
    table = scored.confusion()
    totals = np.maximum(table.sum(1, keepdims=True), 1)
    shares = table / totals
    names = [_text(name) for name in scored.class_names]
    rows = []
    for row, name in enumerate(names):
        cells = []
        for column, share in enumerate(shares[row]):
            percent = round(100 * share)
            shown = str(percent) if percent else "·" if share else ""
            # The root makes the few off the diagonal seen.
            role = "--first" if row == column else "--second"
            depth = 85 * (share if row == column else min(1, share**0.5))
            deep = ' class="deep"' if depth > 58 else ""
            cells.append(
                f'<td{deep} style="background:color-mix(in srgb, var({role})'
                f' {depth:.0f}%, var(--panel))" title="{name} taken for'
                f' {names[column]}: {table[row][column]}">{shown}</td>'
            )
        rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th><span>{name}</span></th>" for name in names)
    columns = '<col class="name">' + "<col>" * len(names)
    return (
        "<div><h3>Confusion matrix</h3>"
        '<p class="soft">Rows: what it is; columns: what it was taken for; %'
        " of the row.</p>"
        f'<table class="confusion"><colgroup>{columns}</colgroup><thead><tr>'
        f"<th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div>"
    )


def _per_class(scored: predictions.Predictions) -> str:
    table = scored.confusion()
    rows = []
    for place, name in enumerate(scored.class_names):
        count = int(table[place].sum())
        if not count:
            continue
        share = table[place, place] / count
        others = table[place].copy()
        others[place] = 0
        worst = int(others.argmax())
        taken = (
            f"{_text(scored.class_names[worst])} ({others[worst] / count:.0%})"
            if others[worst]
            else ""
        )
        rows.append(
            f"<tr><th>{_text(name)}</th>"
            f"<td>{100 * share:.1f}</td>"
            f'<td class="track"><div class="bar" style="width:{100 * share:.1f}'
            f'%"></div></td><td>{taken}</td></tr>'
        )
    return (
        "<div><h3>Accuracy by class</h3>"
        '<p class="soft">And what it is most often taken for.</p>'
        '<table class="bars"><thead><tr><th>class</th><th>%</th><th></th><th>'
        f"taken for</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div>"
    )


def _mistakes(scored: predictions.Predictions) -> str:
    if not len(scored.mistakes):
        return "<p>None: all images were told right.</p>"
    shown = []
    for row, picture in zip(scored.mistakes, scored.pictures, strict=True):
        guess = scored.class_names[scored.predicted[row]]
        truth = scored.class_names[scored.labels[row]]
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        shown.append(
            f'<figure><img src="{_data_url(buffer.getvalue())}" width="32"'
            f' height="32" alt="{_text(truth)}"><figcaption><span class="no">'
            f"{_text(guess)}</span> {scored.confidence[row]:.1%}<br>is"
            f' <span class="yes">{_text(truth)}</span><br><span class="soft">'
            f"no. {row}</span></figcaption></figure>"
        )
    return (
        '<p class="soft">What the network said, how sure it was, what the label'
        " says, and the image's number in its split. Some labels of the test"
        f' images are wrong themselves.</p><div class="mistakes">'
        f"{''.join(shown)}</div>"
    )


def _augmentation(run: run_lib.Run) -> str:
    if run.augmentation is None:
        return _missing(f"There is no {AUGMENTATION}.")
    return (
        '<p class="soft">First row: images as they are; below, as the network'
        " sees them, with other draws in each row.</p>"
        f'<img class="augmentation" src="{_data_url(run.augmentation)}"'
        ' alt="eight images, augmented">'
    )


def _starts(run: run_lib.Run) -> str:
    if not run.starts:
        return _missing("No checkpoint tells of them yet.")
    rows = [
        [
            _when(start.get("time")),
            _text(start.get("step", "?")),
            _text(start.get("replicas", "?")),
            _text(start.get("host", "?")),
            _text(start.get("versions", {}).get("tensorflow", "?")),
        ]
        for start in run.starts
    ]
    parts = [
        _cost(run),
        _table(["time (UTC)", "from step", "replicas", "host", "TF"], rows),
    ]
    if rollbacks := run.manifest.get("rollbacks"):
        rows = [
            [_text(r.get(k, "?")) for k in ("bad_step", "to_step", "factor")]
            for r in rollbacks
        ]
        heads = ["step that was not finite", "back to step", "rate times"]
        parts += ["<h3>Rollbacks</h3>", _table(heads, rows)]
    return "".join(parts)


def _cost(run: run_lib.Run) -> str:
    """Says how long the run took by the clock, and how much of it trained."""
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
        f" {_duration(clock)} by the clock; {_duration(trained)} of them were"
        f" kept work in the training loop, {_duration(rest)}"
        f" ({rest / max(clock, 1e-9):.0%}) were not: {causes}.</p>"
    )


def _config(run: run_lib.Run) -> str:
    base = serialization.flatten(default.get_config())
    flags = run.command.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    replaced = run.command.get("replaced")
    replaced = replaced if isinstance(replaced, dict) else {}
    preset = run.fields.get("augment.preset")
    rows = []
    for name, value in run.fields.items():
        if name in flags:
            by = '<span class="flag">flag</span>'
            if name in replaced and replaced[name] != value:
                by += f", the file has {_value(replaced[name])}"
        elif name not in base:
            by = "no field of this version"
        elif base[name] == value:
            continue
        elif preset and name.startswith("augment."):
            by = f"preset {_text(preset)}"
        else:
            by = "config file" if run.command else "file or flag"
        rows.append(
            [
                f"<code>{_breaking(name)}</code>",
                _value(base[name]) if name in base else "",
                _value(value),
                by,
            ]
        )
    table = (
        _table(["field", "default.py", "this run", "set by"], rows)
        if rows
        else "<p>No field differs from configs/default.py.</p>"
    )
    unknown = (
        ""
        if run.command
        else '<p class="soft">Which fields were flags is not known: the run'
        f" left no {COMMAND}.</p>"
    )
    whole = "\n".join(
        f"{name} = {json.dumps(value)}" for name, value in run.fields.items()
    )
    return (
        f"{table}{unknown}<details><summary>All {len(run.fields)} fields"
        f"</summary><pre>{_text(whole)}</pre></details>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>"


def _pair(parts: Sequence[str]) -> str:
    return f'<div class="pair">{"".join(parts)}</div>'


def _figure(title: str, chart: str, note: str = "") -> str:
    head = f"<h3>{_text(title)}</h3>" if title else ""
    caption = f"<figcaption>{_text(note)}</figcaption>" if note else ""
    return f"<figure>{head}{chart}{caption}</figure>"


def _missing(text: str) -> str:
    return f'<p class="missing">{_text(text)}</p>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; heads are text, cells are HTML."""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}'
        "</tbody></table></div>"
    )


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _breaking(name: str) -> str:
    """Returns a field's name, which may go on in the next line."""
    return re.sub(r"([._/])", r"\1<wbr>", _text(name))


def _value(value: Any) -> str:
    text = json.dumps(value)
    shown = _breaking(text) if isinstance(value, str) else _text(text)
    return f"<code>{shown}</code>"


def _percent(share: Any) -> str:
    return _number(share if share is None else 100 * share, ".2f", " %")


def _number(value: Any, form: str, unit: str = "") -> str:
    """Returns a number as text; "" where there is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return format(value, form) + unit


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _seconds(time: Any) -> float | None:
    """Returns seconds since the epoch of a time in ISO 8601; None: no such."""
    try:
        return datetime.datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return None


def _when(time: Any) -> str:
    return _text(str(time or "?").replace("T", " ").partition("+")[0])
