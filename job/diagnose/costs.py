"""Cost of each mistake, and the accuracy for a training budget.

A cost is the difference of two runs of docs/results.md or docs/diagnose.md, and
a test compares it with the files of docs/results. A mistake without a measured
cost has a source and a rank.
"""

import math

from job.diagnose.finding import Cost


def _difference(table: str, **runs: float) -> Cost:
    """Returns the difference of two runs of docs/results.md as a cost.

    Args:
      table: Name of the table of the runs.
      **runs: Accuracy of the better and of the worse run, in %, by variant.
    """
    better, worse = runs.values()
    listed = ", ".join(f"{name} {each:.2f}" for name, each in runs.items())
    return Cost(better - worse, f"docs/results.md, {table}: {listed}")


def of_this_model(points: float, what: str) -> Cost:
    """Returns a cost that was measured on the model or run itself.

    Args:
      points: Lost accuracy in percentage points.
      what: Condition of the loss.
    """
    return Cost(points, f"measured here, {what}")


def unknown(source: str, rank: float) -> Cost:
    """Returns the cost of a mistake without a measured cost.

    Args:
      source: Description of the mistake, such as a publication.
      rank: Position among the findings, in estimated percentage points.
    """
    return Cost(None, source, rank)


_FROZEN = {
    32: _difference("transfer", gradual=88.09, frozen=65.72),
    64: unknown("docs/results.md, resolution: frozen at 64 px 67.75", 20),
    96: unknown("docs/results.md, resolution: frozen at 96 px 71.10", 17),
    128: unknown("docs/results.md, resolution: frozen at 128 px 72.85", 15),
}


def frozen_base(size: int) -> Cost:
    """Returns the cost of a frozen base for an image size.

    Args:
      size: Height of the images in pixels.
    """
    return _FROZEN[max(each for each in _FROZEN if each <= max(32, size))]


# Width -> epochs of 50,000 images -> accuracy of configs/stem32.py in %.
_EXPECTED = {
    0.25: {9: 84.9},
    0.5: {10: 88.2, 20: 89.0},
    1.0: {20: 90.2},
}


def expected_accuracy(width: float, epochs: float) -> str:
    """Describes the measured accuracy for a training budget.

    Args:
      width: Multiplier of the filters.
      epochs: Length of the run in epochs of 50,000 images.
    """
    nearest = min(_EXPECTED, key=lambda each: abs(math.log(each / width)))
    points = _EXPECTED[nearest]
    shortest, longest = min(points), max(points)
    text = f"stem32.py at width {nearest:g}:"
    if epochs < 0.75 * shortest:
        return f"{text} {points[shortest]:g}% after {shortest} epochs"
    if epochs > 1.5 * longest:
        return f"{text} {points[longest]:g}% after {longest} epochs, more later"
    near = min(points, key=lambda each: abs(math.log(each / epochs)))
    return f"{text} about {points[near]:g}% after {near} epochs"


# Mistakes of a Keras model.
METRIC = Cost(0.0, "only the displayed number is wrong")
DIVERGED_MODEL = unknown("NaN * 0 is NaN: no further step helps", 100)
RATE_OF_MODEL = unknown("docs/results.md, naive_rates", 45)
DEEP_RATE = _difference("naive_rates", **{"adam_3e-4": 60.16, "adam_1e-3": 9.0})

# Mistakes of a config or a run.
LARGE_HEAD = Cost(
    0.0,
    "docs/results.md, ladder: the large head gains 1.5 points in 5 epochs",
    2,
)
NO_WARMUP = _difference("baseline_search", warmup=80.44, no_warmup=79.36)
NO_AUGMENTATION = unknown("more the longer a run is", 1.5)
NO_AUGMENTATION_SYNTHETIC = _difference(
    "quickstart", quickstart=96.60, no_augmentation=94.50
)
OVER_AUGMENTED = _difference("over", flip_translate_2=80.56, strong=70.18)
RATE_TOO_LOW = Cost(
    39.40,
    "docs/diagnose.md: flip_translate_2 80.56, at 0.01 times its learning rate"
    " 41.16",
)
RATE_TOO_HIGH = unknown("github.com/FluxML/model-zoo/issues/220", 45)
PREPROCESSING = Cost(
    8.01,
    "docs/diagnose.md: 65.54 as the weights expect, 57.53 divided by 255",
)
