"""Sections of the page on classes, calibration and mistakes.

    for section in sections(run): ...

All of them come from the predictions that a finished run keeps.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from job.output.predictions import Predictions
from job.report import charts, markup
from job.report import run as run_lib
from job.storage.workdir import PREDICTIONS


def sections(run: run_lib.Run) -> Iterator[str]:
    """Yields the sections as HTML, or one that names the missing file."""
    if run.scored is None:
        what = (
            "an earlier version of the job made this run"
            if run.result
            else "a run writes it at its end"
        )
        yield markup.section(
            "Classes, calibration, mistakes",
            markup.missing(
                f"{PREDICTIONS} is missing: {what}. The confusion matrix, the"
                " reliability diagram and the list of mistakes need it."
            ),
        )
        return
    scored = run.scored
    yield markup.section(
        "Classes",
        markup.pair([_confusion(scored), _per_class(scored)]),
    )
    error, bins = scored.calibration_error(), scored.calibration()
    confidence = float(scored.confidence.mean())
    tends = "over" if confidence > scored.accuracy else "under"
    diagram = markup.figure(
        "",
        charts.reliability(bins, title="accuracy against confidence"),
    )
    yield markup.section(
        "Calibration",
        markup.pair(
            [
                diagram,
                f"<div><p>Expected calibration error (ECE, {len(bins)} bins):"
                f" <b>{markup.percent(error)}</b>.</p><p>Mean confidence"
                f" {markup.percent(confidence)}, accuracy"
                f" {markup.percent(scored.accuracy)}"
                f": it is {tends}confident on the whole.</p>"
                '<p class="soft">A bar below the dashed line: there the network'
                " is surer than it is right. Label smoothing and averaged"
                " weights tend to leave it less sure than it could be.</p>"
                "</div>",
            ]
        ),
    )
    yield markup.section(
        f"The {len(scored.mistakes)} most confident mistakes",
        _mistakes(scored),
    )


def _confusion(scored: Predictions) -> str:
    table = scored.confusion()
    totals = np.maximum(table.sum(1, keepdims=True), 1)
    shares = table / totals
    names = [markup.escape(name) for name in scored.class_names]
    rows = []
    for row, name in enumerate(names):
        cells = []
        for column, share in enumerate(shares[row]):
            percent = round(100 * share)
            shown = str(percent) if percent else "·" if share else ""
            # The square root makes the few off the diagonal visible.
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


def _per_class(scored: Predictions) -> str:
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
        taken = ""
        if others[worst]:
            name_taken = markup.escape(scored.class_names[worst])
            taken = f"{name_taken} ({others[worst] / count:.0%})"
        rows.append(
            f"<tr><th>{markup.escape(name)}</th>"
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


def _mistakes(scored: Predictions) -> str:
    if not len(scored.mistakes):
        return "<p>None: all images were told right.</p>"
    shown = []
    for row, picture in zip(scored.mistakes, scored.pictures, strict=True):
        guess = markup.escape(scored.class_names[scored.predicted[row]])
        truth = markup.escape(scored.class_names[scored.labels[row]])
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        shown.append(
            f'<figure><img src="{markup.data_url(buffer.getvalue())}"'
            f' width="32" height="32" alt="{truth}"><figcaption>'
            f'<span class="no">{guess}</span> {scored.confidence[row]:.1%}<br>'
            f'is <span class="yes">{truth}</span><br><span class="soft">'
            f"no. {row}</span></figcaption></figure>"
        )
    return (
        '<p class="soft">What the network said, how sure it was, what the label'
        " says, and the image's number in its split. Some labels of the test"
        f' images are wrong themselves.</p><div class="mistakes">'
        f"{''.join(shown)}</div>"
    )
