"""Process with a full log pipe that nobody reads, so a write blocks."""

import os
import subprocess
import sys

from tests.support.jobs import ROOT

_FILL = """
import os
os.set_blocking(2, False)
try:
    while os.write(2, bytes(4096)): pass
except BlockingIOError:
    os.set_blocking(2, True)
"""
_WAIT_FOR_EVER = "\nos.write(2, bytes(4096))\n"


def exit_code(script: str) -> int:
    """Runs a script with a full pipe for its stderr.

    Args:
      script: Python code. After it, the process blocks on a write.

    Returns:
      Exit code of the process, which must end within a minute.
    """
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _FILL + script + _WAIT_FOR_EVER],
        cwd=ROOT,
        stderr=writer,
    )
    os.close(writer)
    try:
        return process.wait(60)
    finally:
        process.kill()
        os.close(reader)
