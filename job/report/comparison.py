"""Compares runs that have ended: one table and three figures.

    WORKDIR/report.md               one row per variant, mean and standard
                                    deviation over seeds
    WORKDIR/waterfall.png           change of accuracy by each variant
    WORKDIR/curves.png              accuracy over training cost
    WORKDIR/accuracy_gflop.png      final accuracy over training cost

Reads the workdirs of ablations and of single runs.

    print(write_report([pathlib.Path("runs/ladder")]))
"""

import dataclasses
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from job import errors
from job.config import run_config
from job.output import ablation, metrics, results
from job.report import comparison_plots
from job.report.comparison_plots import Curve, Points
from job.storage import files
from job.storage.workdir import (
    ACCURACY_GFLOP,
    COMPARISON,
    CURVES,
    FAILURE,
    WATERFALL,
)


@dataclasses.dataclass(frozen=True)
class EndedRun:
    """A finished run, or one that diverged.

    Attributes:
      variant: Name of the run's variant.
      result: Its result.json; None if it diverged.
      fields: Its flattened config.
      lines: Lines of its metrics log.
    """

    variant: str
    result: dict[str, Any] | None
    fields: dict[str, Any]
    lines: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one variant; accuracies are fractions, 0 to 1.

    Attributes:
      variant: Name of the variant.
      accuracies: Accuracy of the last epoch, for each seed that finished.
      accuracies_tta: The same with flip TTA, for each seed that has it.
      failed: Number of seeds that diverged.
      seconds: Training time, median over seeds.
      images_per_second: Throughput, median over seeds.
      train_tflop: Floating-point operations of the whole training, in 10^12,
        median over seeds.
      seconds_to_base: Time in training steps alone until an evaluation reached
        the final accuracy of the first variant, median over the seeds that
        reached it; None if none did.
      compile_seconds: Compile time, median over seeds. Of the above, only
        `seconds` includes it.
    """

    variant: str
    accuracies: tuple[float, ...]
    accuracies_tta: tuple[float, ...]
    failed: int
    seconds: float
    images_per_second: float
    train_tflop: float
    seconds_to_base: float | None
    compile_seconds: float

    @property
    def mean(self) -> float:
        """Mean accuracy; that of random guessing if every seed diverged."""
        return statistics.fmean(self.accuracies) if self.accuracies else 0.1


def write_report(
    folders: Sequence[pathlib.Path], names: Sequence[str] = ()
) -> str:
    """Writes the table and the figures into the first folder.

    Args:
      folders: Workdirs of ablations or of single runs.
      names: Names of single runs, one per folder. If empty, those of the
        folders.

    Returns:
      The table, in Markdown.

    Raises:
      ConfigError: None of the folders contains a run that has ended.
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
    cumulative = record.cumulative if record else ()
    # A side branch is not part of the sum of the changes.
    steps = [r for r in rows if not cumulative or r.variant in cumulative]
    comparison_plots.draw_waterfall(
        [row.variant for row in steps],
        [row.mean for row in steps],
        out / WATERFALL,
        cumulative=bool(cumulative),
    )
    comparison_plots.draw_curves([_curve(run) for run in runs], out / CURVES)
    comparison_plots.draw_cost(
        [Points(r.variant, r.train_tflop, r.accuracies) for r in rows],
        out / ACCURACY_GFLOP,
    )
    return table


def read(folder: pathlib.Path, name: str) -> list[EndedRun]:
    """Returns the runs of a workdir that have ended.

    Args:
      folder: Workdir of an ablation or of a single run.
      name: Variant of a single run.

    Returns:
      The runs of an ablation in its order, or the single run.
    """
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


def _read_run(folder: pathlib.Path, variant: str) -> EndedRun | None:
    result = results.inspect(folder).value
    if not result and not os.path.exists(folder / FAILURE):
        return None
    try:
        fields = run_config.read_fields(folder)
    except errors.ConfigError:
        return None
    return EndedRun(variant, result, fields, metrics.read(folder))


def summarize(runs: Sequence[EndedRun]) -> list[Row]:
    """Returns one row per variant, in the order of their first runs."""
    by_variant: dict[str, list[EndedRun]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    goal: float | None = None
    rows: list[Row] = []
    for variant, own in by_variant.items():
        if not rows and (accuracies := _scores(own, "accuracy")):
            goal = statistics.fmean(accuracies)
        rows.append(_row(variant, own, goal=goal))
    return rows


def _row(variant: str, runs: Sequence[EndedRun], *, goal: float | None) -> Row:
    """Returns a variant's row.

    Args:
      variant: Name of the variant.
      runs: Its runs.
      goal: Final accuracy of the first variant; None if it has none.
    """

    def median(name: str) -> float:
        values = [run.result.get(name, 0.0) for run in runs if run.result]
        return statistics.median(values) if values else 0.0

    reached = [
        seconds
        for run in runs
        if goal is not None and (seconds := seconds_to(run, goal)) is not None
    ]
    return Row(
        variant=variant,
        accuracies=_scores(runs, "accuracy"),
        accuracies_tta=_scores(runs, "accuracy_tta"),
        failed=sum(not run.result for run in runs),
        seconds=median("train_seconds"),
        images_per_second=median("images_per_second"),
        train_tflop=median("train_tflop"),
        seconds_to_base=statistics.median(reached) if reached else None,
        compile_seconds=median("compile_seconds"),
    )


def _scores(runs: Sequence[EndedRun], name: str) -> tuple[float, ...]:
    """Returns a score of each finished run that has it."""
    found = [
        run.result.get(f"test_{name}", run.result.get(f"validation_{name}"))
        for run in runs
        if run.result
    ]
    return tuple(score for score in found if score is not None)


def seconds_to(run: EndedRun, accuracy: float) -> float | None:
    """Returns the time in training steps until an accuracy was reached.

    Args:
      run: The run.
      accuracy: Accuracy of an evaluation, 0 to 1.

    Returns:
      Seconds without compilation, evaluations and saves; None if no evaluation
      reached the accuracy.
    """
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
            # The line after the evaluation has the speed of the last steps.
            until = min(line["step"], reached)
            images = (until - step) * run.fields["global_batch_size"]
            seconds += images / line["images_per_second"]
            step = until
    return seconds


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns the table; changes are relative to the first row.

    The column "to first" has the seconds of training steps until an evaluation
    reached the final accuracy of the first row, plus the compile time.
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
            f" {_spread(row.accuracies_tta)} | {seeds} | {row.seconds:.0f} |"
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


def cost_of(run: EndedRun, line: Mapping[str, Any]) -> float | None:
    """Returns the training cost up to a line of the metrics log.

    Args:
      run: The run.
      line: Line of its metrics log.

    Returns:
      Floating-point operations in 10^12; None if unknown.
    """
    if "train_tflop" in line:
        return line["train_tflop"]
    # Runs of an earlier version; all of their steps cost the same.
    total, steps = (
        (run.result or {}).get(name) for name in ("train_tflop", "train_steps")
    )
    return total * line["step"] / steps if total and steps else None


def _curve(run: EndedRun) -> Curve:
    """Returns the accuracies of a run's evaluations over the training cost."""
    scored = [
        (cost, line["accuracy"])
        for line in run.lines
        if line["split"] != "train" and (cost := cost_of(run, line))
    ]
    return Curve(
        run.variant,
        [cost for cost, _ in scored],
        [accuracy for _, accuracy in scored],
    )
