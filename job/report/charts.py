"""Curves and diagrams of a run, as SVG for a page.

    svg = curves([Series("train", xs, ys)], x="epoch", y="loss", ...)

Colors are CSS variables of the page, so that a dark page has light lines; fonts
are the page's. Sized for a column of a phone's width.
"""

import dataclasses
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from job.output.plotting import Axes, Figure, matplotlib
from job.output.predictions import Bin

# Inches of 72 points: 360 units of SVG, about a phone's width.
_SIZE = (5.0, 3.2)

# Placeholder colors for matplotlib, and the page's CSS variables that replace
# them. Each stands for one role and is never visible.
_ROLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--first)",
    "#040404": "var(--second)",
}
INK, FAINT, FIRST, SECOND = _ROLES

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "job",  # The same numbers make the same page.
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "path.simplify": True,
}


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      name: Name in the legend. If "", none.
      xs: Values on the x axis.
      ys: Values on the y axis; NaN and infinity leave a gap.
      marked: Whether each value has a dot, for few values.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    marked: bool = False


def curves(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    title: str,
    marks: Sequence[float] = (),
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Draws up to two lines; returns an SVG element.

    Args:
      series: The lines.
      x: Label of the x axis, with its unit.
      y: Label of the y axis, with its unit.
      title: Text for screen readers.
      marks: Positions of dotted vertical lines on the x axis.
      low: Lower end of the y axis. If None, from the values.
      high: Upper end of the y axis. If None, from the values.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for place, line in enumerate(series):
            ys = np.asarray(line.ys, float)
            axes.plot(
                line.xs,
                np.where(np.isfinite(ys), ys, np.nan),
                "--" if place else "-",
                color=SECOND if place else FIRST,
                marker="o" if line.marked or len(line.xs) == 1 else None,
                markersize=4,
                label=line.name or None,
            )
        for mark in marks:
            axes.axvline(mark, color=INK, linestyle=":", linewidth=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if np.isfinite(
            np.concatenate([[np.nan], *(s.ys for s in series)])
        ).any():
            axes.set_ylim(low, high)
        if any(line.name for line in series):
            axes.legend()
        return _to_svg(figure, title)


def reliability(bins: Sequence[Bin], *, title: str) -> str:
    """Draws accuracy over confidence, and the number of images per bin."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], 4.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        used = [b for b in bins if b.count]
        middles = [(b.low + b.high) / 2 for b in used]
        width = bins[0].high - bins[0].low
        bar = {"width": width * 0.92, "color": FIRST, "linewidth": 0}
        upper.bar(middles, [b.accuracy for b in used], **bar, label="accuracy")
        upper.plot([0, 1], [0, 1], "--", color=SECOND, label="as sure as right")
        upper.set_ylim(0, 1)
        upper.set_ylabel("accuracy")
        upper.legend(loc="upper left")
        lower.bar(middles, [b.count for b in used], **bar)
        lower.set_ylabel("images")
        lower.set_xlabel("confidence: the likeliest class's probability")
        lower.set_xlim(0, 1)
        return _to_svg(figure, title)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _to_svg(figure: Figure, title: str) -> str:
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    # Ids must be unique in a page, which has several charts.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for color, role in _ROLES.items():
        svg = svg.replace(color, role)
    # The page's column sets the width.
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box
    return (
        f'<svg {box[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' aria-label="{html.escape(title)}">{rest}'
    )
