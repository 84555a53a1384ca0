"""Programs of the job, one module per `--mode` except config.

Each has a function `run` with plain arguments that returns an `Outcome` and
prints nothing. The modules import TensorFlow only after all checks that do not
need it.
"""

import dataclasses
from collections.abc import Iterable

# End of the last line of the log after a stop of each mode.
LAST_LINES = {
    "ablate": "finished runs are kept, and the current one can be resumed",
    "benchmark": "the benchmark has no result yet; run it again",
    "diagnose": "a diagnosis changes nothing",
    "evaluate": "an evaluation writes nothing",
    "export": "an earlier export is kept",
    "fetch": "downloaded files are kept",
    "predict": "printed answers are complete",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a mode, for the user and for Kubernetes.

    Attributes:
      output: Lines for standard output, possibly computed while they are read.
      summary: Termination message of a pod. If empty, the mode's name.
    """

    output: Iterable[str] = ()
    summary: str = ""
