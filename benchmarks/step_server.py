"""Process that runs training steps on request and reports their duration.

The process reads a number of steps per line from stdin, runs them, and writes
the seconds as a line to stdout. The module imports only the standard library,
because the Python of PyTorch may lack the packages of this project.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Settings:
    """Common settings of all frameworks.

    Attributes:
      batch: Number of images per step, over all replicas.
      width: Multiplier of the filters of VGG16.
      precision: Precision of the training, float32, bfloat16 or float16.
      compile: Whether PyTorch compiles the step.
      replicas: Number of replicas of the job on one CPU.
    """

    batch: int
    width: float
    precision: str
    compile: bool
    replicas: int


def parse_settings() -> Settings:
    """Parses the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    return Settings(**vars(parser.parse_args()))


def serve(make_run: Callable[[Settings], Callable[[int], None]]) -> None:
    """Serves requests until stdin is closed.

    Args:
      make_run: Factory that returns a function of a number of steps. The
        function runs these steps and returns when the device has finished.
    """
    # Libraries may print to stdout, so the replies use a copy of it.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = make_run(parse_settings())
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, file=replies)
