"""Figures of a comparison of runs, as PNG.

    draw_waterfall(["base", "wider"], [0.93, 0.94], path, cumulative=True)
    draw_curves([Curve("base", costs, accuracies)], path)
    draw_cost([Points("base", 120.0, [0.93, 0.94])], path)

Imports no TensorFlow.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from job.output.plotting import plt, ticker

# Okabe and Ito's palette, distinguishable for color-blind people.
_COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#CC79A7", "#56B4E9", "#000000", "#999999"),
)
_COST = "cost of the training, 10$^{12}$ operations"
_STYLES = ("-", "--", ":", "-.")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy of a run's evaluations over the training cost.

    Attributes:
      variant: Name of the run's variant.
      costs: Floating-point operations up to each evaluation, in 10^12.
      accuracies: Accuracy of each evaluation, 0 to 1.
    """

    variant: str
    costs: Sequence[float]
    accuracies: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Points:
    """Final accuracies of a variant at its training cost.

    Attributes:
      variant: Name of the variant.
      cost: Floating-point operations of the whole training, in 10^12.
      accuracies: Final accuracy of each run, 0 to 1.
    """

    variant: str
    cost: float
    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)


def draw_waterfall(
    variants: Sequence[str],
    accuracies: Sequence[float],
    path: pathlib.Path,
    *,
    cumulative: bool,
) -> None:
    """Draws the accuracy of each variant as a change from another one.

    Args:
      variants: Names of the variants.
      accuracies: Mean accuracy of each, 0 to 1.
      path: Path of the PNG.
      cumulative: Whether a bar starts at the accuracy of the variant above. If
        False, it starts at that of the first one, and the axis is magnified.
    """
    height = 1.2 + 0.4 * len(variants)
    figure, axes = plt.subplots(figsize=(7, height), layout="constrained")
    values = [100 * accuracy for accuracy in accuracies]
    low, high = 0.0, 112.0  # The numbers need space beside the bars.
    if not cumulative:
        room = max(max(values) - min(values), 1.0)
        low, high = min(values) - 0.3 * room, max(values) + 0.5 * room
    for index, value in enumerate(values):
        start = values[index - 1 if cumulative else 0] if index else low
        grew = value >= start
        axes.barh(
            index,
            value - start,
            left=start,
            color=_COLORS[0] if grew else _COLORS[3],
        )
        change = f" ({value - start:+.1f})" if index else ""
        axes.text(
            max(value, start) + 0.005 * (high - low),
            index,
            f"{value:.1f}{change}",
            va="center",
            fontsize=9,
        )
    if not cumulative:
        axes.axvline(values[0], color=_COLORS[6], linewidth=0.8)
    axes.set_yticks(range(len(variants)), variants)
    axes.invert_yaxis()
    axes.set_xlim(low, high)
    other = "line above" if cumulative else "first line"
    axes.set_xlabel(f"accuracy, %; in brackets: against the {other}")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_curves(curves: Sequence[Curve], path: pathlib.Path) -> None:
    """Draws the accuracy of evaluations over the training cost.

    Args:
      curves: One curve per run. Runs of a variant have the same color.
      path: Path of the PNG.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = list(dict.fromkeys(curve.variant for curve in curves))
    labeled: set[str] = set()
    for curve in curves:
        index = names.index(curve.variant)
        first = curve.variant not in labeled
        labeled.add(curve.variant)
        axes.plot(
            curve.costs,
            [100 * accuracy for accuracy in curve.accuracies],
            _STYLES[index // len(_COLORS) % len(_STYLES)],
            marker=".",
            color=_COLORS[index % len(_COLORS)],
            label=curve.variant if first else None,
        )
    axes.set_xlabel(_COST)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_cost(variants: Sequence[Points], path: pathlib.Path) -> None:
    """Draws the final accuracy over the training cost.

    Args:
      variants: Points of each variant.
      path: Path of the PNG.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for index, points in enumerate(variants):
        axes.plot(
            [points.cost] * len(points.accuracies),
            [100 * accuracy for accuracy in points.accuracies],
            "o",
            color=_COLORS[index % len(_COLORS)],
        )
    if any(points.cost > 0 for points in variants):
        axes.set_xscale("log")
        # Within a decade or two, powers of ten are too few labels.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(x=0.2)
    axes.set_xlabel(_COST)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _name_points(axes, [points for points in variants if points.accuracies])
    _save(figure, path)


def _name_points(axes: Any, variants: Sequence[Points]) -> None:
    """Writes each variant's name beside its mean, none over another."""
    size = 8.0
    axes.figure.canvas.draw()  # Fixes the transformation to pixels.
    pixels_a_point = axes.figure.dpi / 72
    placed: list[tuple[float, float]] = []
    for points in sorted(variants, key=lambda points: points.mean):
        point = (points.cost, 100 * points.mean)
        x, y = axes.transData.transform(point) / pixels_a_point
        above = [
            other_y + 1.2 * size
            for other_x, other_y in placed
            if abs(other_x - x)
            < size * max(len(v.variant) for v in variants) / 2
            and other_y + 1.2 * size > y
        ]
        placed.append((x, max([y, *above])))
        axes.annotate(
            points.variant,
            point,
            xytext=(6, placed[-1][1] - y - size / 3),
            textcoords="offset points",
            fontsize=size,
        )


def _save(figure: Any, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
