"""Tests of the reuse of freed memory."""

import subprocess
import sys

from tests.support.jobs import ROOT

# Counts the page faults of a thread, such as TensorFlow's, that writes to a
# block of 40 MB repeatedly, which is more than glibc keeps by default.
PROGRAM = """
import resource, sys, threading
from job.distribute import memory

BLOCK = 40 * 2**20

if sys.argv[1] == "keep":
    memory.keep_freed_memory()

def faults():
    for _ in range(20):
        bytearray(BLOCK)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(b"x") * BLOCK
        del block
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


def pages(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_blocks_are_taken_from_the_kernel_once():
    assert pages("leave") > 100_000  # 20 writes to 10,240 pages each.
    assert pages("keep") < 30_000
