"""Timing of the calls of compiled training steps.

    clock = Clock(global_batch_size=128)
    clock.start()
    with clock.measure(steps=1):
        ...                             # the first call traces and compiles
    clock.images_per_second, clock.compile_seconds

Times are wall-clock seconds.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator

from job.supervision.watchdog import LONG_SECONDS

# Ratio of a call's time to the current time from which the call has hung.
_HUNG_FACTOR = 10.0

# Number of calls whose median is the current time per step.
_RECENT_CALLS = 21


class Clock:
    """Stopwatch for the throughput, compile time and total time of a loop."""

    def __init__(self, global_batch_size: int) -> None:
        self._global_batch_size = global_batch_size
        # (steps, seconds) of recent calls, and their sums since the last line.
        self._calls: list[tuple[int, float]] = []
        self._line: tuple[int, float] = (0, 0.0)
        self._first: tuple[int, float] | None = None
        self._compiled = 0.0
        self._since = time.perf_counter()

    def start(self) -> None:
        """Resets the time that `take_seconds` returns."""
        self._since = time.perf_counter()

    def expect_compilation(self) -> None:
        """Declares that the next call compiles another function."""
        self._compiled = self.compile_seconds
        self._first = None
        self._calls = []

    @contextlib.contextmanager
    def measure(self, steps: int) -> Iterator[None]:
        """Times a call that runs `steps` steps.

        Args:
          steps: Number of steps of the call.
        """
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        if self._first is None:
            # This call traces and compiles, so it is not counted as a step.
            self._first = (steps, seconds)
            return
        self._calls = [*self._calls[1 - _RECENT_CALLS :], (steps, seconds)]
        self._line = (self._line[0] + steps, self._line[1] + seconds)

    @property
    def step_seconds(self) -> float | None:
        """Returns the median seconds per step of recent calls, or None."""
        if not self._calls:
            return None
        return statistics.median(
            seconds / steps for steps, seconds in self._calls
        )

    @property
    def images_per_second(self) -> float:
        """Returns the images per second of recent calls.

        The first calls include the compilation.
        """
        steps, seconds = self._first or (1, 1.0)
        return self._global_batch_size / (self.step_seconds or seconds / steps)

    @property
    def is_compiled(self) -> bool:
        """Returns whether the current function was called before."""
        return self._first is not None

    def longest_call_seconds(self, steps: int) -> float:
        """Returns the time after which a call of `steps` steps has hung."""
        if not self.is_compiled:
            return LONG_SECONDS
        images = steps * self._global_batch_size
        return _HUNG_FACTOR * images / self.images_per_second

    @property
    def compile_seconds(self) -> float:
        """Returns the seconds of all first calls without those of steps."""
        steps, seconds = self._first or (0, 0.0)
        extra = max(0.0, seconds - steps * (self.step_seconds or 0.0))
        return round(self._compiled + extra, 3)

    def steps_in(self, seconds: float) -> int:
        """Returns the number of steps per time interval, 1 at the start.

        Args:
          seconds: Length of the interval in seconds.
        """
        return (
            max(1, int(seconds / self.step_seconds)) if self.step_seconds else 1
        )

    def take_images_per_second(self) -> float:
        """Returns the images per second since the last call of this method."""
        steps, seconds = self._line
        self._line = (0, 0.0)
        rate = self.images_per_second
        if steps:
            rate = steps * self._global_batch_size / seconds
        return round(rate, 1)

    def take_seconds(self) -> float:
        """Returns the seconds since the last call of this method."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return round(seconds, 3)
