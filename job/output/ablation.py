"""The record of an ablation: which runs it has, and where they are stored.

    record = ablation.read(workdir)       # None: not an ablation's workdir
    for variant in record.variants:
        folder = ablation.run_folder(workdir, variant, record.seeds[0])

Written by `modes.ablate`, read by `report.comparison`. Imports no TensorFlow.
"""

import dataclasses
import pathlib

from job.storage import files
from job.storage.workdir import ABLATION


@dataclasses.dataclass(frozen=True)
class Record:
    """The runs of an ablation.

    Attributes:
      variants: Names of the variants, in the order of the ablation. The first
        one is the baseline.
      seeds: Seeds that each variant is trained with.
      cumulative: Variants that add to the one before them.
    """

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    cumulative: tuple[str, ...]


def run_folder(workdir: pathlib.Path, variant: str, seed: int) -> pathlib.Path:
    """Returns the workdir of one run of an ablation."""
    return workdir / variant / f"seed-{seed}"


def read(workdir: pathlib.Path) -> Record | None:
    """Returns an ablation's record; None if the folder is not an ablation's.

    Args:
      workdir: Folder of the ablation, above those of its runs.
    """
    fields = files.read_json(workdir / ABLATION)
    if not isinstance(fields, dict):
        return None
    return Record(
        tuple(fields["variants"]),
        tuple(fields["seeds"]),
        tuple(fields.get("cumulative") or ()),
    )
