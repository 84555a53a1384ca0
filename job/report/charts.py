"""Charts of the reports: curves, diagrams and bars.

    figure = curves([Series("train", xs, ys)], x="epoch", y="loss", title="a")
    svg = to_svg(figure, "loss over the epochs")      # for a page
    to_png(figure, path)                              # for a document

An SVG takes its colors and fonts from the page, so that it fits light and dark
pages. Names of runs are shown unchanged, and not as mathematical text.
"""

import contextlib
import dataclasses
import io
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from job.errors import printable
from job.output.plotting import Axes, Figure, plt, ticker
from job.output.predictions import Bin
from job.report.render import shorten

# Width in inches of 72 points. An SVG is 360 units wide, as a phone's screen.
_WIDTH, _HEIGHT = 5.0, 3.2
_FONT_SIZE = 10.0

INK, SOFT, FAINT = "#1a1c1f", "#5b626b", "#d5d9de"
FIRST, SECOND = "#0072b2", "#c25200"
# CSS variables of the page that replace these colors in an SVG.
_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    FAINT: "var(--faint)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
# Palette of Okabe and Ito, which is distinguishable for color-blind people.
PALETTE = (FIRST, SECOND, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", SOFT)
_DASHES = ("-", "--", ":", "-.")


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Sets the style of the charts.

    Warnings of characters that matplotlib's font lacks are suppressed, because
    the page uses another font.
    """
    look = plt.style.context(pathlib.Path(__file__).with_suffix(".mplstyle"))
    with look, warnings.catch_warnings(action="ignore", category=UserWarning):
        yield


@dataclasses.dataclass(frozen=True)
class Series:
    """Line of a chart.

    Attributes:
      name: Name at the end of the line. If "", the line has no name.
      xs: Values on the x axis.
      ys: Values on the y axis. NaN leaves a gap.
      marked: Whether each value has a dot, for few values.
      low: Lower end of a band around the line. If empty, no band.
      high: Upper end of the band.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    marked: bool = False
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def curves(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    title: str,
    marks: Sequence[float] = (),
    low: float | None = None,
    log: bool = False,
    form: str = ".1f",
) -> Figure:
    """Draws lines, each with its name and its last value at its end.

    Args:
      series: Lines of the chart.
      x: Label of the x axis with its unit.
      y: Label of the y axis with its unit.
      title: Title of the chart.
      marks: Positions of dotted vertical lines on the x axis.
      low: Lower end of the y axis. If None, chosen from the values.
      log: Whether the y axis is logarithmic.
      form: Format of the last values.
    """
    with _style():
        figure, axes = _axes(title, len(series))
        ends = []
        for index, line in enumerate(series):
            color = PALETTE[index % len(PALETTE)]
            axes.plot(
                line.xs,
                line.ys,
                _DASHES[(index + index // len(PALETTE)) % len(_DASHES)],
                color=color,
                marker="o" if line.marked or len(line.xs) == 1 else None,
                markersize=4,
            )
            if line.low:
                axes.fill_between(
                    line.xs, line.low, line.high, color=color, alpha=0.2, lw=0
                )
            if line.name:
                end = line.ys[-1]
                ends.append((f"{_label(line.name)} {end:{form}}", end, color))
        for mark in marks:
            axes.axvline(mark, color=SOFT, linestyle=":", linewidth=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if low is not None:
            axes.set_ylim(low, low + 1.08 * max(axes.dataLim.y1 - low, 1e-9))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
            axes.set_ylabel(f"{y}, log scale")
        _label_ends(axes, ends)
        return figure


def reliability(bins: Sequence[Bin], *, title: str) -> Figure:
    """Draws accuracy over confidence, and the number of images per bin.

    Args:
      bins: Bins of the reliability diagram.
      title: Title of the chart.
    """
    with _style():
        figure = Figure(figsize=(_WIDTH, 4.2))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        used = [b for b in bins if b.count]
        middles = [50 * (b.low + b.high) for b in used]
        width = 100 * (bins[0].high - bins[0].low)
        # The accuracy of a few images is mostly noise.
        colors = [FAINT if b.count < 10 else FIRST for b in used]
        bar: Any = {"width": width * 0.92, "color": colors, "linewidth": 0}
        upper.bar(middles, [100 * b.accuracy for b in used], **bar)
        upper.plot([0, 100], [0, 100], "--", color=SECOND)
        upper.annotate(
            "perfect\ncalibration",
            (1.02, 0.9),
            xycoords="axes fraction",
            color=SECOND,
        )
        upper.set_ylim(0, 100)
        upper.set_title(title)
        upper.set_ylabel("accuracy, %")
        lower.bar(middles, [b.count for b in used], **bar)
        lower.set_ylabel("images")
        lower.set_xlabel("confidence: probability of the predicted class, %")
        lower.set_xlim(0, 100)
        return figure


def changes(
    names: Sequence[str], values: Sequence[float], errors: Sequence[float]
) -> Figure:
    """Draws the change of each step as a bar from its previous value.

    Args:
      names: Names of the steps, from the first to the last.
      values: Accuracies in percent.
      errors: Standard error of each accuracy, in percentage points.
    """
    with _style():
        figure, axes = _rows("Accuracy after each step", names)
        least, most = min(values), max(values)
        low = max(0.0, 10 * np.floor((least - 5) / 10)) if least < 95 else least
        before = [low, *values[:-1]]
        for row, (start, value) in enumerate(zip(before, values, strict=True)):
            color = FIRST if value >= start else SECOND
            axes.barh(row, value - start, left=start, color=color, height=0.7)
            axes.errorbar(value, row, xerr=errors[row], color=INK, lw=1)
            change = ""
            if row:
                noise = 2 * np.hypot(errors[row], errors[row - 1])
                small = abs(value - start) < noise
                by = "within noise" if small else f"{value - start:+.1f}"
                change = f" ({by})"
            axes.annotate(
                f"{value:.1f}{change}",
                (max(value, start) + errors[row], row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlim(low, most + 0.4 * max(most - low, 1))
        axes.set_xticks([t for t in axes.get_xticks() if low <= t <= 100])
        axes.set_xlim(low, most + 0.4 * max(most - low, 1))
        axes.set_xlabel("accuracy, %; line: ± 1 standard error")
        return figure


def dots(
    names: Sequence[str], values: Sequence[Sequence[float]], *, noise: float
) -> Figure:
    """Draws the accuracy of each run, with a row per variant.

    Args:
      names: Names of the variants, the first of which is the reference.
      values: Accuracies of each variant's runs, in percent.
      noise: Half the width of the band around the first mean, in percentage
        points.
    """
    with _style():
        figure, axes = _rows("Accuracy of the last epoch", names)
        for row, own in enumerate(values):
            if not own:
                continue
            mean = float(np.mean(own))
            axes.plot(own, [row] * len(own), "o", color=FIRST, alpha=0.6)
            axes.plot([mean] * 2, [row - 0.3, row + 0.3], color=FIRST)
            if row == 0:
                axes.axvspan(
                    mean - noise, mean + noise, color=FAINT, alpha=0.5, lw=0
                )
            axes.annotate(
                f"{mean:.2f}",
                (max(own), row),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
            )
        axes.margins(x=0.25)
        axes.set_xlabel("accuracy, %; band: noise of a difference")
        return figure


def _axes(title: str, lines: int) -> tuple[Figure, Axes]:
    """Returns a figure with space for a label per line."""
    height = max(_HEIGHT, 1.3 + 0.2 * lines)
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _rows(title: str, names: Sequence[str]) -> tuple[Figure, Axes]:
    """Returns a figure with a named row for each name, from the top."""
    height = 1.2 + 0.32 * len(names)
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_yticks(
        range(len(names)), [_label(name) for name in names], parse_math=False
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _label(name: str) -> str:
    """Returns a user-defined name as a short label."""
    return shorten(printable(name), 22)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Writes labels to the right of the axes without overlaps.

    Args:
      axes: Axes with their final limits.
      ends: Text, y value and color of each label.
    """
    # The axes take about 70% of the height of a figure, which is in points.
    gap = 1.25 * _FONT_SIZE / (0.7 * axes.figure.bbox.height)
    scale = axes.transScale + axes.transLimits
    placed: list[tuple[float, str, str]] = []
    for text, y, color in sorted(ends, key=lambda end: end[1]):
        at = float(scale.transform((axes.get_xlim()[1], y))[1])
        lowest = placed[-1][0] + gap if placed else -1.0
        placed.append((max(at, lowest), text, color))
    highest = 1.0
    for at, text, color in reversed(placed):
        at = min(at, highest)
        highest = at - gap
        axes.annotate(
            text,
            (1.02, at),
            xycoords="axes fraction",
            color=color,
            va="center",
            parse_math=False,
        )


def to_png(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as a PNG for high-density screens."""
    with _style():
        figure.savefig(path, dpi=200)


def to_svg(figure: Figure, title: str) -> Markup:
    """Returns a figure as an SVG element.

    Args:
      figure: Figure to convert.
      title: Text for screen readers.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None},
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    # Ids would not be unique in a page with several charts.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    # The column of the page sets the width.
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box
    return Markup(
        f'<svg {box[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' aria-label="{escape(printable(title))}">{rest}'
    )
