"""Cost of a probe in seconds of work and in images of 32 px."""

import time

# Origin of `clock`.
_WALL, _WORK = time.perf_counter(), time.process_time()


def clock() -> float:
    """Returns the work of this process in seconds of two idle CPU cores.

    The result is at least a quarter of the elapsed time. On a busy machine a
    probe takes longer and has the same result.
    """
    work = (time.process_time() - _WORK) / 2
    return max(work, (time.perf_counter() - _WALL) / 4)


def num_images(count: int, pixels: int, *, at_least: int = 1) -> int:
    """Returns the number of images that cost as much as `count` at 32 px.

    Args:
      count: Number of images of 32 x 32 pixels.
      pixels: Number of pixels of an image, height times width.
      at_least: Lower bound of the result.
    """
    return max(at_least, count * 32**2 // pixels)
