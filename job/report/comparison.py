"""Compares finished runs: one table, and pictures.

    WORKDIR/report.md               a line a variant, mean and spread over seeds
    WORKDIR/waterfall.png           what each variant adds
    WORKDIR/curves.png              accuracy over what it had cost so far
    WORKDIR/accuracy_gflop.png      accuracy against the cost of training

Reads what `ablate` and single runs left.

    print(write_report([pathlib.Path("runs/ladder")]))
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from job import errors
from job.config import serialization
from job.output import ablation, metrics
from job.output.plotting import plt, ticker
from job.storage import files
from job.storage.workdir import (
    ACCURACY_GFLOP,
    COMPARISON,
    CONFIG,
    CURVES,
    FAILURE,
    RESULT,
    WATERFALL,
)

# Okabe & Ito's colours, which colour-blind people tell apart.
_COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#CC79A7", "#56B4E9", "#000000", "#999999"),
)
_COST = "cost of the training, 10$^{12}$ operations"
_STYLES = ("-", "--", ":", "-.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run, or one that failed for good.

    Attributes:
      variant: what it is a run of.
      result: its result.json; None where it failed.
      fields: its flattened config.
      lines: its metrics.jsonl.
    """

    variant: str
    result: dict[str, Any] | None
    fields: dict[str, Any]
    lines: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant: its runs' figures, shares from 0 to 1.

    Attributes:
      variant: its name.
      accuracies: of the last epoch, a number a seed that came to its end.
      mirrored: the same with test-time augmentation, where it was made.
      failed: how many seeds diverged.
      seconds: of training, median over seeds.
      images_per_second: likewise.
      train_tflop: operations of the whole training, in 10^12.
      seconds_to_base: of training steps alone, until the evaluation at which
        the accuracy was first that of the first variant's end, median over the
        seeds that got there; None: none did.
      compile_seconds: median; in none of the above but `seconds`.
    """

    variant: str
    accuracies: tuple[float, ...]
    mirrored: tuple[float, ...]
    failed: int
    seconds: float
    images_per_second: float
    train_tflop: float
    seconds_to_base: float | None
    compile_seconds: float

    @property
    def mean(self) -> float:
        """Mean accuracy; that of guessing where every seed failed."""
        return statistics.fmean(self.accuracies) if self.accuracies else 0.1


def write_report(
    folders: Sequence[pathlib.Path], names: Sequence[str] = ()
) -> str:
    """Writes the files above into the first folder.

    Args:
      folders: workdirs of plans (`ablate`) or of single runs.
      names: what single runs are called; (): as their folders.

    Returns:
      The table.

    Raises:
      ConfigError: there is no run in any of them.
    """
    names = names or [folder.name for folder in folders]
    runs = [
        run
        for folder, name in zip(folders, names, strict=True)
        for run in read(folder, name)
    ]
    if not runs:
        raise errors.ConfigError(
            "no run has come to an end in "
            + ", ".join(str(name) for name in names)
        )
    rows = summarize(runs)
    table = to_markdown(rows)
    out = folders[0]
    out.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out / COMPARISON, table.encode())
    record = ablation.read(out)
    draw_waterfall(
        rows,
        out / WATERFALL,
        cumulative=record is not None and record.cumulative,
    )
    draw_curves(runs, out / CURVES)
    draw_cost(rows, out / ACCURACY_GFLOP)
    return table


def read(folder: pathlib.Path, name: str) -> list[Run]:
    """Returns the ended runs of a plan in its order, or the one of `name`."""
    record = ablation.read(folder)
    if record is None:
        run = _read_run(folder, name)
        return [run] if run else []
    runs = [
        _read_run(ablation.run_folder(folder, variant, seed), variant)
        for variant in record.variants
        for seed in record.seeds
    ]
    return [run for run in runs if run]


def _read_run(folder: pathlib.Path, variant: str) -> Run | None:
    result = files.read_json(folder / RESULT)
    failed = (folder / FAILURE).exists()
    config = files.read_json(folder / CONFIG)
    if not isinstance(config, dict) or not (result or failed):
        return None
    return Run(
        variant, result, serialization.flatten(config), metrics.read(folder)
    )


def summarize(runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each variant, in the order of their first runs."""
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    goal: float | None = None
    rows: list[Row] = []
    for variant, own in by_variant.items():
        if not rows and (accuracies := _scores(own, "accuracy")):
            goal = statistics.fmean(accuracies)
        rows.append(_row(variant, own, goal=goal))
    return rows


def _row(variant: str, runs: Sequence[Run], *, goal: float | None) -> Row:
    """Returns a variant's row; `goal` is the accuracy of the first one."""

    def median(name: str) -> float:
        values = [run.result.get(name, 0.0) for run in runs if run.result]
        return statistics.median(values) if values else 0.0

    reached = [
        seconds
        for run in runs
        if goal is not None and (seconds := _seconds_to(run, goal)) is not None
    ]
    return Row(
        variant=variant,
        accuracies=_scores(runs, "accuracy"),
        mirrored=_scores(runs, "accuracy_tta"),
        failed=sum(not run.result for run in runs),
        seconds=median("train_seconds"),
        images_per_second=median("images_per_second"),
        train_tflop=median("train_tflop"),
        seconds_to_base=statistics.median(reached) if reached else None,
        compile_seconds=median("compile_seconds"),
    )


def _scores(runs: Sequence[Run], name: str) -> tuple[float, ...]:
    """Returns a score of each run that came to its end and has it."""
    found = [
        run.result.get(f"test_{name}", run.result.get(f"validation_{name}"))
        for run in runs
        if run.result
    ]
    return tuple(score for score in found if score is not None)


def _seconds_to(run: Run, accuracy: float) -> float | None:
    """Returns how long a run's steps took until an evaluation said so much."""
    if not run.result:
        return None
    reached = next(
        (
            line["step"]
            for line in run.lines
            if line["split"] != "train" and line["accuracy"] >= accuracy
        ),
        None,
    )
    if reached is None:
        return None
    seconds, step = 0.0, 0
    for line in run.lines:
        if line["split"] == "train" and step < reached:
            # The line after the evaluation says how quick the last steps were.
            until = min(line["step"], reached)
            images = (until - step) * run.fields["global_batch_size"]
            seconds += images / line["images_per_second"]
            step = until
    return seconds


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns the table; changes are against the first row.

    "to first" are the seconds of training steps until an evaluation reached
    the accuracy of the first row's end, and those of compiling.
    """
    lines = [
        "| variant | accuracy | change | mirror | seeds | seconds | to first"
        " | images/s | TFLOP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change = ""
        if row.accuracies and row is not rows[0]:
            change = f"{100 * (row.mean - rows[0].mean):+.2f}"
        seeds = f"{len(row.accuracies)}"
        if row.failed:
            seeds += f" ({row.failed} diverged)"
        reached = ""
        if row.seconds_to_base is not None:
            reached = f"{row.seconds_to_base:.0f} + {row.compile_seconds:.0f}"
        lines.append(
            f"| {row.variant} | {_spread(row.accuracies)} | {change} |"
            f" {_spread(row.mirrored)} | {seeds} | {row.seconds:.0f} |"
            f" {reached} | {row.images_per_second:,.0f} |"
            f" {row.train_tflop:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    text = f"{100 * statistics.fmean(scores):.2f}"
    if len(scores) > 1:
        text += f" ± {100 * statistics.stdev(scores):.2f}"
    return text


def draw_waterfall(
    rows: Sequence[Row], path: pathlib.Path, *, cumulative: bool
) -> None:
    """Draws each variant's accuracy, and how it differs from another one.

    Args:
      rows: of the table.
      path: of the picture.
      cumulative: from the line above; else from the first one, and magnified.
    """
    height = 1.2 + 0.4 * len(rows)
    figure, axes = plt.subplots(figsize=(7, height), layout="constrained")
    values = [100 * row.mean for row in rows]
    low, high = 0.0, 112.0  # With room for the numbers.
    if not cumulative:
        room = max(max(values) - min(values), 1.0)
        low, high = min(values) - 0.3 * room, max(values) + 0.5 * room
    for place, value in enumerate(values):
        start = values[place - 1 if cumulative else 0] if place else low
        grew = value >= start
        axes.barh(
            place,
            value - start,
            left=start,
            color=_COLORS[0] if grew else _COLORS[3],
        )
        change = f" ({value - start:+.1f})" if place else ""
        axes.text(
            max(value, start) + 0.005 * (high - low),
            place,
            f"{value:.1f}{change}",
            va="center",
            fontsize=9,
        )
    if not cumulative:
        axes.axvline(values[0], color=_COLORS[6], linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(low, high)
    other = "line above" if cumulative else "first line"
    axes.set_xlabel(f"accuracy, %; in brackets: against the {other}")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _cost_of(run: Run, line: Mapping[str, Any]) -> float | None:
    """Returns what a run had cost when a line was written, in 10^12."""
    if "train_tflop" in line:
        return line["train_tflop"]
    # Of an earlier version: each step as much as any other.
    total, steps = (
        (run.result or {}).get(name) for name in ("train_tflop", "train_steps")
    )
    return total * line["step"] / steps if total and steps else None


def draw_curves(runs: Sequence[Run], path: pathlib.Path) -> None:
    """Draws the accuracies on held-out images over what they cost."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = list(dict.fromkeys(run.variant for run in runs))
    for run in runs:
        scored = [
            (cost, 100 * line["accuracy"])
            for line in run.lines
            if line["split"] != "train" and (cost := _cost_of(run, line))
        ]
        place = names.index(run.variant)
        first = run is next(r for r in runs if r.variant == run.variant)
        axes.plot(
            [cost for cost, _ in scored],
            [accuracy for _, accuracy in scored],
            _STYLES[place // len(_COLORS) % len(_STYLES)],
            marker=".",
            color=_COLORS[place % len(_COLORS)],
            label=run.variant if first else None,
        )
    axes.set_xlabel(_COST)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_cost(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draws accuracy against the operations that training took."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for place, row in enumerate(rows):
        cost = [row.train_tflop] * len(row.accuracies)
        axes.plot(
            cost,
            [100 * a for a in row.accuracies],
            "o",
            color=_COLORS[place % len(_COLORS)],
        )
    if any(row.train_tflop > 0 for row in rows):
        axes.set_xscale("log")
        # Plain numbers: within a decade or two, powers of ten are too few.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(x=0.2)
    axes.set_xlabel(_COST)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _name_points(axes, [row for row in rows if row.accuracies])
    _save(figure, path)


def _name_points(axes: Any, rows: Sequence[Row]) -> None:
    """Writes each row's name beside its point, none over another."""
    size = 8.0
    axes.figure.canvas.draw()  # From here on it is known what lies where.
    pixels_a_point = axes.figure.dpi / 72
    placed: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: row.mean):
        point = (row.train_tflop, 100 * row.mean)
        x, y = axes.transData.transform(point) / pixels_a_point
        above = [
            other_y + 1.2 * size
            for other_x, other_y in placed
            if abs(other_x - x) < size * max(len(r.variant) for r in rows) / 2
            and other_y + 1.2 * size > y
        ]
        placed.append((x, max([y, *above])))
        axes.annotate(
            row.variant,
            point,
            xytext=(6, placed[-1][1] - y - size / 3),
            textcoords="offset points",
            fontsize=size,
        )


def _save(figure: Any, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
