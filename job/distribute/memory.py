"""Reuse of the memory that a training step frees.

    keep_freed_memory()

By default the C library returns large freed blocks to the kernel. The next
allocation has one page fault per page. Without reuse a training step has 20,000
page faults in bfloat16 and 43,000 in float32, at full width and batch 128.
docs/performance.md has the effect on the speed.
"""

import contextlib
import ctypes

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**31 - 1
# Step by which the heap grows. With a small step TensorFlow's threads still
# return their blocks.
_PAD_BYTES = 2**28


def keep_freed_memory() -> None:
    """Makes glibc 2.35 or newer keep freed memory.

    With another C library the function has no effect.

    The process keeps its largest size so far. Blocks above 1 GiB are returned.
    """
    # musl lacks mallopt, and other systems lack the file.
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # glibc before 2.35 refuses the threshold and returns 0. The other two
        # settings alone would fix it at its lowest value.
        if mallopt(_M_MMAP_THRESHOLD, 2**30):
            mallopt(_M_TRIM_THRESHOLD, _LARGEST)
            mallopt(_M_TOP_PAD, _PAD_BYTES)
