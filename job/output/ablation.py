"""Record of an ablation: its runs and their folders.

    record, note = ablation.inspect(workdir)   # None without an ablation
    for variant in record.variants:
        folder = ablation.run_folder(workdir, variant, record.seeds[0])

`modes.ablate` writes the record, and `report.comparison` reads it. The module
does not import TensorFlow.
"""

import dataclasses
import pathlib

from job.storage import reader
from job.storage.workdir import ABLATION

# Contents of the file; see `reader.Kind`.
_KIND = {
    "variants": [str],
    "seeds": [reader.Number(0, whole=True)],
    "cumulative?": [str],
}


@dataclasses.dataclass(frozen=True)
class Record:
    """Runs of an ablation.

    Attributes:
      variants: Names of the variants, in the order of the ablation. The first
        one is the baseline.
      seeds: Seeds of the runs of each variant.
      cumulative: Names of the variants that add to the one before them.
    """

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    cumulative: tuple[str, ...]


def run_folder(workdir: pathlib.Path, variant: str, seed: int) -> pathlib.Path:
    """Returns the workdir of one run of an ablation."""
    return workdir / variant / f"seed-{seed}"


def inspect(workdir: pathlib.Path) -> reader.Reading[Record]:
    """Returns the record of an ablation, and a note if it is damaged.

    Args:
      workdir: Folder of the ablation, above those of its runs.
    """
    return reader.inspect(lambda: _read(workdir))


def _read(workdir: pathlib.Path) -> Record | None:
    fields = reader.read_json(workdir / ABLATION, _KIND)
    if fields is None:
        return None
    return Record(
        tuple(fields["variants"]),
        tuple(fields["seeds"]),
        tuple(fields.get("cumulative", ())),
    )
