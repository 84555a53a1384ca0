"""Draws the plots of README.md and docs/ from the files of docs/results/.

    python -m docs.plots

It writes docs/recipes.png, docs/cost.png and docs/resolution.png. No figure is
typed by hand.
"""

import math
import pathlib
import re
import statistics

from docs import tables
from job.output.plotting import Axes, plt

_DOCS = pathlib.Path(__file__).parent
_BLUE, _ORANGE, _GRAY = "#0b66a8", "#c8500a", "#8a8f98"

# Label, file of docs/results/ and variant; from the lowest accuracy to the
# highest. The upper half has a budget of its own, the lower half another one.
_FIRST_RUNS = (
    ("Tutorial settings: Adam 1e-3", "naive_rates", "adam_1e-3"),
    ("Adam 1e-4", "naive_rates", "adam_1e-4"),
    ("Adam 3e-4", "naive_rates", "adam_3e-4"),
)
_RECIPES = (
    ("AutoAugment and Cutout", "baselines", "autoaugment_cutout"),
    ("Common recipe: crop, flip, cosine", "baselines", "common"),
    ("Common recipe, tuned", "baselines", "baseline_tuned"),
    ("stem32.py before Muon", "baselines", "stem32_sgd"),
    ("Common recipe, tuned, with Muon", "baselines", "baseline_tuned_muon"),
    ("stem32.py:20ep", "baselines", "stem32"),
)
# Label, variant and color of a line.
_COSTS = (
    ("stem32.py", "stem32", _BLUE),
    ("before Muon", "stem32_sgd", _GRAY),
    ("common recipe, tuned", "baseline_tuned", _ORANGE),
)


def draw_recipes(path: pathlib.Path) -> None:
    """Draws the accuracy of single recipes, a dot per seed."""
    figure, (upper, lower) = plt.subplots(
        2,
        figsize=(8.0, 4.8),
        height_ratios=(len(_FIRST_RUNS), len(_RECIPES)),
        layout="constrained",
    )
    _draw_rows(upper, _FIRST_RUNS, _ORANGE)
    upper.set_xlim(0, 100)
    upper.set_title(
        "VGG16 without batch normalization, 5 epochs, width 0.25:\n"
        "the learning rate decides",
        loc="left",
        fontsize=11,
    )
    _draw_rows(lower, _RECIPES, _BLUE)
    lower.set_xlim(82, 90.5)
    lower.set_title(
        "With batch normalization, 378 TFLOP each, width 0.5\n"
        "(the lowest two are made for 200 epochs and more)",
        loc="left",
        fontsize=11,
    )
    lower.set_xlabel(
        f"Accuracy in %. A dot per seed; the band is one run's noise,"
        f" ±{tables.NOISE}"
    )
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _draw_rows(
    axes: Axes, rows: tuple[tuple[str, str, str], ...], color: str
) -> None:
    for place, (_, name, variant) in enumerate(rows):
        runs = tables.read(name)["runs"]
        values = [r["accuracy"] for r in runs if r["variant"] == variant]
        mean = statistics.fmean(values)
        noise = tables.NOISE
        axes.barh(
            place, 2 * noise, left=mean - noise, height=0.5, color="#e3e6ea"
        )
        axes.plot(values, [place] * len(values), "o", color=color)
        axes.annotate(
            f"{mean:.1f}",
            (max([*values, mean + noise]), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _plain(axes)


def draw_cost(path: pathlib.Path) -> None:
    """Draws the accuracy of whole runs over their cost, a dot per seed."""
    runs = [
        run
        for name in ("baselines_half", "baselines")
        for run in tables.read(name)["runs"]
    ]
    figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    for label, variant, color in _COSTS:
        seeds: dict[int, list[float]] = {}
        for run in runs:
            if run["variant"] == variant:
                cost = round(run["tflop"], -1)
                seeds.setdefault(cost, []).append(run["accuracy"])
        means = [statistics.fmean(values) for values in seeds.values()]
        axes.plot(list(seeds), means, color=color)
        if variant == "baseline_tuned":
            axes.plot([0, max(seeds)], [means[-1]] * 2, ":", color=color)
        for cost, values in seeds.items():
            axes.plot([cost] * len(values), values, "o", color=color)
        axes.annotate(
            f"{label}: {means[-1]:.1f}",
            (max(seeds), means[-1]),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
    axes.set_xlim(170, 480)
    axes.set_xticks(
        [190, 380], ["189 TFLOP\n(8 epochs of 32 px)", "378 TFLOP\n(16 epochs)"]
    )
    axes.set_ylabel("Accuracy, %")
    axes.set_title(
        "VGG16 at width 0.5: accuracy over the cost of training",
        loc="left",
        fontsize=11,
    )
    _plain(axes)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def draw_resolution(path: pathlib.Path) -> None:
    """Draws the accuracy of a frozen base over the size of its images."""
    table = tables.read("resolution")
    figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    points = [
        (int(match[1]), match[2] or "bilinear", run["accuracy"])
        for run in table["runs"]
        if (match := re.fullmatch(r"(\d+)_?(\w*)", run["variant"]))
    ]
    curve = [(size, y) for size, kernel, y in points if kernel == "bilinear"]
    sizes = [size for size, _ in curve]
    axes.errorbar(
        sizes,
        [y for _, y in curve],
        yerr=1.0,
        fmt="o-",
        color=_BLUE,
        capsize=3,
    )
    for size, accuracy in curve:
        axes.annotate(
            f"{accuracy:.1f}",
            (size, accuracy),
            xytext=(8, -14),
            textcoords="offset points",
        )
    others = [(size, y) for size, kernel, y in points if kernel != "bilinear"]
    axes.plot(
        [size for size, _ in others], [y for _, y in others], "x", color=_GRAY
    )
    axes.annotate(
        "nearest, bicubic",
        others[0],
        xytext=(8, 4),
        textcoords="offset points",
        color=_GRAY,
    )
    small_decay = [
        (int(match[1]), run["accuracy"])
        for run in table["runs"]
        if (
            match := re.fullmatch(
                r"(\d+)(_bilinear)?_decay_1e-4", run["variant"]
            )
        )
    ]
    axes.plot(*zip(*small_decay, strict=True), "o--", color=_GRAY)
    axes.annotate(
        "weight decay 1e-4",
        small_decay[0],
        xytext=(8, -8),
        textcoords="offset points",
        color=_GRAY,
    )
    axes.set_xticks(
        sizes, [f"{s} px\n{math.ceil((s / 32) ** 2)}x" for s in sizes]
    )
    axes.set_xlabel("Size of the upsampled image, and cost of its features")
    axes.set_ylabel("Accuracy, %")
    axes.set_title(
        "Frozen ImageNet features gain from larger images\n"
        "(linear head on 5,000 images, weight decay 3; bars: standard error)",
        loc="left",
        fontsize=11,
    )
    axes.set_xlim(28, 136)
    axes.set_ylim(55, 75)
    _plain(axes)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eceef1")
    axes.set_axisbelow(True)


if __name__ == "__main__":
    draw_recipes(_DOCS / "recipes.png")
    draw_cost(_DOCS / "cost.png")
    draw_resolution(_DOCS / "resolution.png")
