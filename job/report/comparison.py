"""Comparison of runs, with their config differences and curves.

    WORKDIR/compare.html            page
    WORKDIR/compare.csv             table with a row per run
    WORKDIR/report.md               table of the page
    WORKDIR/*.png                   two charts of the page, for documents

    print(write_report([pathlib.Path("runs/ladder")]))

The workdirs are those of ablations and of single runs. Runs of the same variant
differ in their seeds. The module does not import TensorFlow.
"""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import statistics
import urllib.parse
from collections.abc import Sequence
from typing import Any

from job import errors
from job.config import resume
from job.output import ablation
from job.output.plotting import Figure
from job.report import charts, render
from job.report import run as run_lib
from job.report.charts import Series
from job.report.run import Run
from job.storage import files
from job.storage.workdir import (
    COMPARE_CSV,
    COMPARE_PAGE,
    COMPARISON,
    CURVES,
    REPORT,
    WATERFALL,
    Workdir,
)

# Standard deviation of a run's accuracy between seeds, in percentage points,
# pooled over the settings of docs/results/ that have several seeds.
NOISE = 0.31

# Columns of the CSV that come from result.json.
_RESULTS = (
    *("train_steps", "train_seconds", "compile_seconds"),
    *("images_per_second", "train_tflop"),
)

# Fields that may differ between runs of one setting.
_PER_RUN = ("seed", "data.dir")


@dataclasses.dataclass(frozen=True)
class Variant:
    """Runs of one setting with different seeds.

    Attributes:
      name: Name of the setting.
      runs: Runs of the setting. Some may have diverged or be unfinished.
    """

    name: str
    runs: tuple[Run, ...]

    def scores(self, name: str) -> list[float]:
        """Returns a score, 0 to 1, of the finished runs that have it.

        Args:
          name: Name of the score, such as accuracy_tta.
        """
        return [s for run in self.runs if (s := run.score(name)) is not None]

    def percents(self) -> list[float]:
        """Returns the accuracy of each finished run, in percent."""
        return [100 * score for score in self.scores("accuracy")]

    def median(self, name: str) -> float | None:
        """Returns the median of a number of the results, or None if absent.

        Args:
          name: Name of a number in result.json.
        """
        found = [v for run in self.runs if (v := run.figure(name)) is not None]
        return statistics.median(found) if found else None

    def state(self) -> str:
        """Returns the number of runs of each state, such as "2, 1 diverged"."""
        done = sum(bool(run.result) for run in self.runs)
        diverged = sum(bool(run.failure) for run in self.runs)
        texts = [str(done)] if done else ["none finished"]
        texts += [f"{diverged} diverged"] if diverged else []
        rest = len(self.runs) - done - diverged
        return ", ".join(texts + ([f"{rest} unfinished"] if rest else []))


def write_report(
    folders: Sequence[pathlib.Path],
    names: Sequence[str] = (),
    *,
    links: bool = True,
) -> str:
    """Writes the page, the CSV, the table and the charts.

    Args:
      folders: Workdirs of ablations or of single runs. The files are written to
        the first one, which need not contain a run.
      names: Names of single runs, one per folder. If empty, the names of the
        folders.
      links: Whether the page links to the reports of the runs.

    Returns:
      The table in Markdown.

    Raises:
      ConfigError: No folder contains a run, or a run is damaged.
    """
    names = names or [folder.name for folder in folders]
    out = folders[0]
    found = _named_apart(
        [
            (name, _find(folder, name))
            for folder, name in zip(folders, names, strict=True)
        ]
    )
    if not found:
        said = ", ".join(errors.printable(name) for name in names)
        raise errors.ConfigError(f"{said}: no run was found. Fix: train first")
    variants = [
        Variant(name, tuple(run for variant, run in found if variant == name))
        for name in dict.fromkeys(variant for variant, _ in found)
    ]
    record, _ = ablation.inspect(out)
    plots = _plots(variants, record.cumulative if record else ())
    heads, rows = table(variants)
    fields = differences(variants)
    text = to_csv(variants, [name for name, _ in fields])
    markdown = render.markdown("comparison.md.j2", heads=heads, rows=rows)
    page = render.html(
        "comparison.html.j2",
        title=f"Comparison of {render.plural(len(found), 'run')}",
        heads=heads,
        rows=rows,
        noise=NOISE,
        data_sets=sorted({_data_set(run) for _, run in found}),
        svgs=[charts.to_svg(figure, title) for title, _, figure in plots],
        variants=variants,
        fields=fields,
        links=[
            (variant, run.fields.get("seed"), _link(run, out))
            for variant, run in found
            if links and (pathlib.Path(run.name) / REPORT).exists()
        ],
        csv=render.data_url(text.encode(), "text/csv"),
    )
    out.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out / COMPARISON, markdown.encode())
    files.write_atomically(out / COMPARE_CSV, text.encode())
    for _, name, figure in plots:
        if name:
            with files.translate_errors(out / name):
                charts.to_png(figure, out / name)
    files.write_atomically(out / COMPARE_PAGE, page)
    return markdown


def _find(folder: pathlib.Path, name: str) -> list[tuple[str, Run]]:
    """Returns the runs of a workdir, each with the name of its variant.

    Args:
      folder: Workdir of an ablation or of a single run.
      name: Variant of a single run.
    """
    record, note = ablation.inspect(folder)
    if note and not run_lib.is_run(folder):
        raise errors.ConfigError(f"{note}. Fix: repeat the ablation's command")
    if record is None:
        places = [(name, folder)]
    else:
        places = [
            (variant, ablation.run_folder(folder, variant, seed))
            for variant in record.variants
            for seed in record.seeds
        ]
    return [
        (variant, run_lib.read(Workdir(place)))
        for variant, place in places
        if run_lib.is_run(place)
    ]


def _named_apart(
    groups: Sequence[tuple[str, Sequence[tuple[str, Run]]]],
) -> list[tuple[str, Run]]:
    """Returns all runs with their variants, and names unequal ones apart.

    A variant that has another setting in an earlier workdir gets the name of
    its own workdir, so that the two are not pooled.

    Args:
      groups: Name of each workdir, and its runs with their variants.
    """
    named: list[tuple[str, Run]] = []
    first: dict[str, Run] = {}
    for name, group in groups:
        own = dict(reversed(group))
        apart = {
            variant
            for variant, run in own.items()
            if variant in first and not _is_same_setting(first[variant], run)
        }
        named += [
            (f"{name}/{variant}" if variant in apart else variant, run)
            for variant, run in group
        ]
        first = {**own, **first}
    return named


def _is_same_setting(*runs: Run) -> bool:
    """Returns whether two runs differ in the seed at most."""
    # A field that is newer than one of the runs does not count.
    common = runs[0].fields.keys() & runs[1].fields.keys() - {*_PER_RUN}
    one, other = ({name: r.fields[name] for name in common} for r in runs)
    return resume.fingerprint(one) == resume.fingerprint(other) and all(
        one.get(name) == other.get(name) for name in ("epochs", "steps")
    )


def _data_set(run: Run) -> str:
    """Returns the name of a run's data set, whatever its source."""
    return "CIFAR-10" if run.is_cifar10 else run.data_source


def _link(run: Run, out: pathlib.Path) -> str:
    """Returns the relative address of a run's report."""
    return urllib.parse.quote(
        os.fsencode(os.path.relpath(pathlib.Path(run.name) / REPORT, out))
    )


def table(variants: Sequence[Variant]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of the table as text."""
    base = variants[0].percents()
    rows = []
    for variant in variants:
        own = variant.percents()
        change = ""
        if own and base and variant is not variants[0]:
            change = _change(own, base)
        rows.append(
            [
                variant.name,
                _spread(own),
                change,
                _spread([100 * s for s in variant.scores("accuracy_tta")]),
                variant.state(),
                render.duration(variant.median("train_seconds")),
                render.number(variant.median("images_per_second")),
                render.number(variant.median("train_tflop"), ",.3g"),
            ]
        )
    heads = ["variant", "accuracy, %", "change", "flip TTA, %", "runs"]
    heads += ["training time", "images/s", "TFLOP"]
    return heads, rows


def _spread(percents: Sequence[float]) -> str:
    """Returns the mean with two digits, and the standard deviation."""
    if not percents:
        return ""
    text = f"{statistics.fmean(percents):.2f}"
    if len(percents) > 1:
        text += f" ± {statistics.stdev(percents):.2f}"
    return text


def _change(own: Sequence[float], base: Sequence[float]) -> str:
    """Returns the difference of two means, or "within noise"."""
    by = statistics.fmean(own) - statistics.fmean(base)
    return "within noise" if abs(by) < _noise(own, base) else f"{by:+.2f}"


def _noise(own: Sequence[float], base: Sequence[float]) -> float:
    """Returns twice the standard error of the difference of two means."""
    return 2 * NOISE * math.sqrt(1 / len(own) + 1 / len(base))


def differences(variants: Sequence[Variant]) -> list[tuple[str, list[str]]]:
    """Returns the fields in which variants differ, with values as JSON."""
    configs = [variant.runs[0].fields for variant in variants]
    names = dict.fromkeys(name for fields in configs for name in fields)
    found = []
    for name in names:
        values = [
            json.dumps(fields[name]) if name in fields else ""
            for fields in configs
        ]
        if len(set(values)) > 1 and name not in _PER_RUN:
            found.append((name, values))
    return found


def to_csv(variants: Sequence[Variant], fields: Sequence[str]) -> str:
    """Returns a CSV with a row per run.

    Args:
      variants: Variants with their runs.
      fields: Fields of the config that have a column.
    """
    scores = ("accuracy", "accuracy_tta", "loss")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", *scores, *_RESULTS, *fields])
    for variant in variants:
        for run in variant.runs:
            values: list[Any] = [variant.name, run.fields.get("seed")]
            values += [run.score(name) for name in scores]
            values += [run.figure(name) for name in _RESULTS]
            values += [json.dumps(run.fields.get(name)) for name in fields]
            writer.writerow(
                errors.printable(v) if isinstance(v, str) else v for v in values
            )
    return text.getvalue()


def _plots(
    variants: Sequence[Variant], cumulative: Sequence[str]
) -> list[tuple[str, str, Figure]]:
    """Returns title, file name ("" without a file) and figure of each chart."""
    plots = []
    done = [variant for variant in variants if variant.percents()]
    for column, x, name in (
        ("epoch", "epoch", ""),
        ("train_tflop", "training cost, TFLOP", CURVES),
    ):
        series = [s for v in variants for s in _series(v, column)]
        if series:
            figure = charts.curves(
                series,
                x=x,
                y="accuracy, %",
                title="Accuracy by " + x.partition(",")[0],
                # The first half of the training is steep and less relevant.
                low=min(line.ys[len(line.ys) // 2] for line in series) - 3,
                form=".2f",
            )
            plots.append((f"accuracy by {x}", name, figure))
    # A side branch does not contribute to the sum of the changes.
    path = [v for v in done if v.name in cumulative]
    if len(path) > 1:
        figure = charts.changes(
            [variant.name for variant in path],
            [statistics.fmean(v.percents()) for v in path],
            [NOISE / math.sqrt(len(v.percents())) for v in path],
        )
        plots.append(("accuracy after each step", WATERFALL, figure))
    elif done:
        percents = [variant.percents() for variant in done]
        first = percents[0]
        figure = charts.dots(
            [variant.name for variant in done],
            percents,
            noise=_noise(first, first),
        )
        plots.append(("accuracy of the last epoch", WATERFALL, figure))
    return plots


def _series(variant: Variant, column: str) -> list[Series]:
    """Returns the mean curve of a variant's evaluations, or one per run.

    Args:
      variant: Variant with its runs.
      column: Column of the metrics log for the x axis.
    """
    curves = []
    for run in variant.runs:
        lines = [
            line
            for line in run.lines
            if line["split"] != "train" and {column, "accuracy"} <= line.keys()
        ]
        xs = [line[column] for line in lines]
        curves.append((xs, [100 * line["accuracy"] for line in lines]))
    curves = [(xs, ys) for xs, ys in curves if xs]
    if len(curves) > 1 and all(xs == curves[0][0] for xs, _ in curves):
        columns = list(zip(*(ys for _, ys in curves), strict=True))
        means = [statistics.fmean(values) for values in columns]
        low, high = [min(v) for v in columns], [max(v) for v in columns]
        return [
            Series(variant.name, curves[0][0], means, True, low=low, high=high)
        ]
    return [Series(variant.name, xs, ys, True) for xs, ys in curves]
