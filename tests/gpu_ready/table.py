"""Limits of the compiled programs, and their table in docs/performance.md.

python -m tests.gpu_ready.table      # writes the table
"""

import json
import pathlib
import re
from typing import TYPE_CHECKING

from tests.gpu_ready import cases

if TYPE_CHECKING:  # Imports TensorFlow.
    from tests.gpu_ready.compiler import Result

Figures = dict[str, dict[str, float]]

PAGE = pathlib.Path(__file__).parents[2] / "docs/performance.md"
_TABLE = re.compile(r"(<!-- gpu programs -->\n).*?(<!-- end -->)", re.DOTALL)


def figures(results: "dict[str, Result]") -> Figures:
    """Returns the figures of a case by part, and by GPU other than an H100."""
    return {
        name: {
            "launches": result.program.launches,
            "gigabytes": round(result.program.bytes / 1e9, 4),
        }
        for name, result in sorted(results.items())
        if not name.endswith("-deterministic")
    }


def write(measured: dict[str, Figures]) -> None:
    """Stores the figures of all cases and writes the table."""
    lines = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(
            f"  {json.dumps(part)}: {json.dumps(values)}"
            for part, values in parts.items()
        )
        + "\n }"
        for name, parts in measured.items()
    ]
    cases.LIMITS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    PAGE.write_text(with_table(PAGE.read_text()))


def with_table(page: str) -> str:
    """Returns the page with the table of the stored figures."""
    stored = cases.read_limits()
    lines = [
        "| config | images per GPU | launches: augmentation, pass, update"
        " | GB per step |",
        "|---|---|---|---|",
    ]
    for case in cases.CASES:
        parts = [stored[case.name][part] for part in cases.PARTS]
        batch = case.create_config().global_batch_size // case.replicas
        launches = ", ".join(f"{p['launches']:g}" for p in parts)
        total = sum(p["gigabytes"] for p in parts)
        lines.append(f"| {case.name} | {batch:,} | {launches} | {total:.2f} |")
    text = "".join(f"{line}\n" for line in lines)
    return _TABLE.sub(lambda found: found[1] + text + found[2], page)


def documented_kernels() -> list[str]:
    """Returns the rows of the page's table on the wheel's kernels."""
    return re.findall(r"^\| .* kernels \| .*$", PAGE.read_text(), re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
