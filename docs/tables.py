"""Collects results of runs and writes the tables of docs/ from them.

    python -m docs.tables collect NAME WORKDIR  # writes docs/results/NAME.json
    python -m docs.tables write                  # writes the tables of docs/

A file of docs/results/ states how its runs were made and holds a row per run.
Its variants are compared with the first one, and those of `cumulative` with the
one before in that list. `noise` is the standard deviation of an accuracy, where
it is measured on few images.
A page has a table of them wherever it contains

    <!-- results NAME -->
    <!-- end -->
"""

import itertools
import json
import math
import pathlib
import re
import statistics
import sys
from typing import Any

from job.report.comparison import NOISE

_DOCS = pathlib.Path(__file__).parent
_TABLE = re.compile(r"(<!-- results (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

# Quantiles 0.975 of Student's t distribution, by degrees of freedom.
_T = {2: 4.303, 3: 3.182, 4: 2.776}


def collect(name: str, workdir: pathlib.Path) -> None:
    """Adds the finished runs of an ablation to docs/results/NAME.json.

    Args:
      name: Name of the file, without its suffix.
      workdir: Folder of the ablation, with VARIANT/seed-N/result.json.
    """
    path = _DOCS / "results" / f"{name}.json"
    table = json.loads(path.read_text()) if path.exists() else {"runs": []}
    runs = {(run["variant"], run["seed"]): run for run in table["runs"]}
    for file in sorted(workdir.glob("*/seed-*/result.json")):
        run = _run(file)
        runs[run["variant"], run["seed"]] = run
    table["runs"] = list(runs.values())
    path.write_text(format_table(table))


def format_table(table: dict[str, Any]) -> str:
    """Returns the text of a file of docs/results/, one line per run."""
    head = {key: value for key, value in table.items() if key != "runs"}
    lines = ",\n".join(f"  {json.dumps(run)}" for run in table["runs"])
    start = json.dumps(head, indent=1)[:-2] if head else "{"
    comma = "," if head else ""
    return f'{start}{comma}\n "runs": [\n{lines}\n ]\n}}\n'


def _run(file: pathlib.Path) -> dict[str, Any]:
    result = json.loads(file.read_text())
    split = "test" if "test_accuracy" in result else "validation"
    lines = (file.parent / "metrics.jsonl").read_text().splitlines()
    train = [x for x in map(json.loads, lines) if x["split"] == "train"]
    return {
        "variant": file.parent.parent.name,
        "seed": result["seed"],
        "accuracy": _percent(result[f"{split}_accuracy"]),
        "flip_tta": _percent(result.get(f"{split}_accuracy_tta")),
        "train_accuracy": _percent(train[-1]["accuracy"]),
        "tflop": round(result["train_tflop"], 1),
        "seconds": round(result["train_seconds"]),
        "config_hash": result["config_hash"],
        "ended": result["ended"],
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def _two_digits(value: float) -> str:
    # Python rounds half to even: 88.195 would become 88.19.
    return f"{math.floor(100 * value + 0.5) / 100:.2f}"


def mean(runs: list[dict[str, Any]], column: str) -> float | None:
    """Returns the mean of a column over runs; None where a run lacks it."""
    values = [run[column] for run in runs if run.get(column) is not None]
    return statistics.fmean(values) if len(values) == len(runs) > 0 else None


def fastest(runs: list[dict[str, Any]]) -> float | None:
    """Returns the lowest number of seconds of runs, None without any."""
    return min((x["seconds"] for x in runs if x.get("seconds")), default=None)


def change(
    runs: list[dict[str, Any]],
    base: list[dict[str, Any]],
    noise: float = NOISE,
) -> str:
    """Returns the difference of two means, or that it is within the noise.

    From 3 seeds each on, it has its 95% t interval, with a pooled variance.
    With fewer, both means have the standard error noise / sqrt(number of runs),
    and a difference below twice its own standard error is within noise.
    """
    by = (mean(runs, "accuracy") or 0.0) - (mean(base, "accuracy") or 0.0)
    root = math.sqrt(1 / len(runs) + 1 / len(base))
    freedom = len(runs) + len(base) - 2
    if min(len(runs), len(base)) >= 3 and freedom in _T:
        variance = sum(
            (len(of) - 1) * statistics.variance(x["accuracy"] for x in of)
            for of in (runs, base)
        )
        half = _T[freedom] * math.sqrt(variance / freedom) * root
        return f"{by:+.2f} ± {half:.2f}"
    return "within noise" if abs(by) < 2 * noise * root else f"{by:+.2f}"


def interval(runs: list[dict[str, Any]]) -> str:
    """Returns the mean accuracy; from 3 seeds on with its 95% t interval."""
    values = [run["accuracy"] for run in runs]
    text = _two_digits(statistics.fmean(values))
    if len(values) - 1 in _T:
        half = _T[len(values) - 1] * statistics.stdev(values)
        text += f" ± {half / math.sqrt(len(values)):.2f}"
    return text


def markdown(table: dict[str, Any]) -> str:
    """Returns a file of docs/results/ as a Markdown table."""
    by_variant: dict[str, list[dict[str, Any]]] = {}
    for run in table["runs"]:
        by_variant.setdefault(run["variant"], []).append(run)
    names = [name for name in table["variants"] if name in by_variant]
    command = f"```bash\n{table['command']}\n```\n"
    if not names:
        return f"{command}\nNot measured yet.\n"
    base = by_variant[names[0]]
    noise = table.get("noise", NOISE)
    header = ["variant", "accuracy", "change", "seeds"]
    columns = {
        "flip_tta": ("flip TTA", _two_digits),
        "train_accuracy": ("training accuracy", _two_digits),
        "tflop": ("TFLOP", "{:,.0f}".format),
        "seconds": ("seconds", "{:,.0f}".format),
    }
    runs = table["runs"]
    used = [key for key in columns if any(run.get(key) for run in runs)]
    rows = [header + [columns[key][0] for key in used]]
    rows.append(["---"] * len(rows[0]))
    path = [name for name in table.get("cumulative", ()) if name in by_variant]
    before = {
        name: by_variant[earlier] for earlier, name in itertools.pairwise(path)
    }
    for name in names:
        of = by_variant[name]
        seeds = ", ".join(str(run["seed"]) for run in of)
        text = table["variants"][name]
        row = [
            f"`{name}`: {text}" if text else f"`{name}`",
            interval(of),
            "" if of is base else change(of, before.get(name, base), noise),
            seeds,
        ]
        for key in used:
            # Other work only adds to the time.
            value = mean(of, key) if key != "seconds" else fastest(of)
            row.append("" if value is None else columns[key][1](value))
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    note = f"{table['setting']} Images: {table['images']}. Hardware:"
    note += f" {table['hardware']}. Code: {table['code']}."
    return f"{command}\n{note}\n\n" + "\n".join(lines) + "\n"


def read(name: str) -> dict[str, Any]:
    """Returns a file of docs/results/."""
    return json.loads((_DOCS / "results" / f"{name}.json").read_text())


def accuracies() -> set[str]:
    """Returns every accuracy of docs/results/, and every mean, as text."""
    found = set()
    for file in (_DOCS / "results").glob("*.json"):
        table = json.loads(file.read_text())
        groups = [[run] for run in table["runs"]]
        for name in table["variants"]:
            groups.append([x for x in table["runs"] if x["variant"] == name])
        for runs in groups:
            for column in ("accuracy", "flip_tta", "train_accuracy"):
                value = mean(runs, column)
                found |= set() if value is None else {_two_digits(value)}
    return found


def with_tables(page: str) -> str:
    """Returns a page with its tables made from docs/results/."""
    return _TABLE.sub(
        lambda match: f"{match[1]}{markdown(read(match[2]))}{match[3]}", page
    )


def main(arguments: list[str]) -> None:
    """Runs `collect NAME WORKDIR` or `write`."""
    match arguments:
        case ["collect", name, workdir]:
            collect(name, pathlib.Path(workdir))
        case ["write"]:
            for page in sorted(_DOCS.glob("*.md")):
                page.write_text(with_tables(page.read_text()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
