"""A process that trains some steps when it is told to, and says how long.

A line with a number comes in, so many steps are run, and the seconds go out as
a line. Imports nothing but the standard library: every peer can have it.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all of them have in common."""

    batch: int
    width: float
    precision: str
    compile: bool
    replicas: int


def settings() -> Settings:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    return Settings(**vars(parser.parse_args()))


def take(make: Callable[[Settings], Callable[[int], None]]) -> None:
    """Makes what runs steps, and runs them in turn with others.

    Args:
      make: returns a function that runs so many steps and returns when the
        device has done them.
    """
    # What libraries print is not an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = make(settings())
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, file=answers)
