"""Model card of an exported model, in Markdown.

The sections are those of Mitchell et al. 2019, "Model Cards for Model
Reporting" (arXiv:1810.03993). `export` replaces {difference} by a number.
"""

import json

from job.config import serialization
from job.report import render
from job.report import run as run_lib

# Fields of a result that describe the effort of the run.
_EFFORT = ("train_steps", "train_seconds", "replicas", "global_batch_size")


def write(
    run: run_lib.Run, *, step: int, class_names: tuple[str, ...], crc32c: str
) -> str:
    """Returns the model card in Markdown.

    Args:
      run: Files of the run; see `run.read`.
      step: Step of the exported checkpoint.
      class_names: Names of the classes, in the order of the probabilities.
      crc32c: Checksum of the training images and labels. If "", it is unknown.
    """
    return render.markdown(
        "card.md.j2",
        run=run,
        step=step,
        class_names=class_names,
        crc32c=crc32c,
        # The path of the images is not part of the recipe.
        changed=[
            (name, json.dumps(value))
            for name, value in serialization.changed(run.fields).items()
            if name not in ("data.dir", "seed")
        ],
        versions=run_lib.texts(run.starts[-1].get("versions"))
        if run.starts
        else {},
        has_effort=all(run.figure(name) is not None for name in _EFFORT),
    )
