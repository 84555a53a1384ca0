"""Memory that a step has freed stays with the process, for the next step.

    keep_freed_memory()

The C library returns large blocks to the kernel when they are freed. The next
allocation gets pages of zeros, one page fault each. A training step frees and
allocates the same blocks every time: 20,000 pages per step in bfloat16 and
43,000 in float32, at full width and batch 128. docs/performance.md has the
effect on the speed.
"""

import contextlib
import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**31 - 1
# Step by which the heap grows. Without it TensorFlow's threads still return
# their blocks.
_PAD_BYTES = 2**28


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory; does nothing with other C libraries.

    The process keeps its largest size so far. Blocks above 1 GiB are returned.
    """
    # musl has no mallopt, and other systems have no such file.
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_TOP_PAD, _PAD_BYTES)
