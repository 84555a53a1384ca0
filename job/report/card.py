"""The model card of an exported model: its use, its figures, its limits.

After Mitchell et al. 2019, "Model Cards for Model Reporting"
(arXiv:1810.03993). Markdown; `export` fills in {difference}.
"""

import json
from typing import Any

from job.config import serialization
from job.report import run as run_lib

_CLIENT = """\
```python
import tensorflow as tf

model = tf.saved_model.load("saved_model").signatures["serving_default"]
images = tf.zeros([1, 32, 32, 3], tf.uint8)      # RGB, 0 to 255
probabilities = model(images=images)["probabilities"]
```

`model.keras` is the same for `keras.models.load_model`. Pixels go in as they
are: what is done to them first (standardizing, scaling up) is inside, and batch
normalization right after a convolution is folded into it."""


def write(
    run: run_lib.Run, *, step: int, class_names: tuple[str, ...], crc32c: str
) -> str:
    """Returns the card in Markdown.

    Args:
      run: Files of the run; see `run.read`.
      step: Step of the exported checkpoint.
      class_names: Names of the classes, in the order of the probabilities.
      crc32c: Checksum of the training images and labels. If "", unknown.
    """
    sections = [
        ("Use", _CLIENT),
        ("Classes", _classes(class_names)),
        ("Figures", _figures(run, step)),
        ("Data", _data(run, crc32c)),
        ("Recipe", _recipe(run)),
        ("Limits", _limits(run)),
    ]
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections)
    return f"# VGG16 on CIFAR-10\n\n{_status(run, step)}\n\n{text}\n"


def _status(run: run_lib.Run, step: int) -> str:
    if run.result:
        return f"The weights of step {step}, the last one of the run."
    return (
        f"**The run is not finished: these are the weights of step {step}.**"
        " Their only score is the record's last line, if there is one."
    )


def _classes(class_names: tuple[str, ...]) -> str:
    return ", ".join(
        f"{place} {name}" for place, name in enumerate(class_names)
    )


def _number(value: Any, form: str) -> str:
    """Returns a formatted number, or "unknown" for anything else."""
    return format(value, form) if isinstance(value, int | float) else "unknown"


def _figures(run: run_lib.Run, step: int) -> str:
    split, result = run.split, run.result
    rows: list[tuple[str, str]] = []
    if result:
        rows += [
            (f"{split} accuracy", _percent(result.get(f"{split}_accuracy"))),
            (
                "with mirror images (not what this model does)",
                _percent(result.get(f"{split}_accuracy_tta")),
            ),
            (f"{split} loss", _number(result.get(f"{split}_loss"), ".4f")),
            ("images scored", _number(result.get("images_scored"), ",")),
        ]
        if run.scored:
            rows.append(
                (
                    "expected calibration error",
                    _percent(run.scored.calibration_error()),
                )
            )
        rows.append(("parameters", _number(result.get("params"), ",")))
    else:
        epochs, values = run.of(split, "accuracy")
        if values:
            said = f"{_percent(values[-1])} at epoch {epochs[-1]:g}"
            rows.append((f"newest {split} accuracy", said))
    rows.append(
        (
            "largest difference of a probability from the checkpoint",
            "{difference}",
        )
    )
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows if value)
    note = (
        "\n\nThe last epoch, every image once, in float32; never the best epoch"
        " on the test images. One run with one seed"
        f" ({run.fields.get('seed')}): another seed gives another figure."
        if result
        else ""
    )
    return f"| what | figure |\n|---|---|\n{lines}{note}"


def _data(run: run_lib.Run, crc32c: str) -> str:
    fields, result = run.fields, run.result or {}
    source = result.get("data_source", fields.get("data.source"))
    if source == "synthetic":
        said = (
            "Drawn shapes, not CIFAR-10: this model knows nothing of"
            " photographs."
        )
    else:
        said = (
            "CIFAR-10 (Krizhevsky 2009), photographs of 32 by 32 pixels in ten"
            f" classes, read as `{source}`."
        )
    if crc32c:
        said += f" Training images and labels have crc32c `{crc32c}`."
    if fraction := fields.get("data.validation_fraction"):
        said += (
            f" {fraction:.0%} of the training images were held out and scored"
            " in the place of the test images."
        )
    for name in ("train", "test"):
        if count := fields.get(f"data.{name}_images"):
            said += f" Of the {name} images, {count:,} were used."
    return said


def _recipe(run: run_lib.Run) -> str:
    rows = [
        f"| {name} | `{json.dumps(value)}` |"
        for name, value in serialization.changed(run.fields).items()
        if name not in ("data.dir", "seed")
    ]
    table = "\n".join(rows)
    versions = (run.starts[-1] if run.starts else {}).get("versions", {})
    tools = ", ".join(f"{name} {v}" for name, v in versions.items())
    lines = [
        "All fields that differ from `configs/default.py`:",
        f"| field | value |\n|---|---|\n{table}" if rows else "none.",
        f"Seed {run.fields.get('seed')}. {_effort(run.result or {})}"
        + (f" {tools}." if tools else ""),
    ]
    return "\n\n".join(lines)


def _effort(result: dict[str, Any]) -> str:
    if not {"train_steps", "train_seconds", "replicas"} <= result.keys():
        return ""
    return (
        f"{result['train_steps']:,} steps in {result['train_seconds']:,.0f} s"
        f" on {result['replicas']} replica(s), {result['precision']}, a global"
        f" batch of {result['global_batch_size']}; resumed"
        f" {result['resumes']} time(s), rolled back {result['rollbacks']}."
    )


def _limits(run: run_lib.Run) -> str:
    smoothing = run.fields.get("optimizer.label_smoothing")
    limits = [
        "It answers with one of its classes whatever it is shown: there is"
        " no class for anything else.",
        "It was trained on images of 32 by 32 pixels with one object in the"
        " middle. A larger picture has to be cut and scaled down first, and"
        " scores lower than the figure above where it looks unlike those.",
        "A probability is a score, calibrated only as far as the calibration"
        " error says"
        + (
            f"; label smoothing of {smoothing:g} makes the largest one lower."
            if smoothing
            else "."
        ),
        "It was not tested against images that were made to mislead it, nor"
        " for fairness towards anybody: no class is of people.",
        "For research and teaching; not for decisions about people or safety.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
