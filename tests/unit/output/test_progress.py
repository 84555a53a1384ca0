"""What a person sees: a bar on a terminal, nothing but lines in a log."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.support.jobs import ROOT

_SHOW = """
from absl import logging
from job.output.progress import Progress
logging.set_verbosity(logging.INFO)
progress = Progress(100, first_step=0)
progress.update(40, loss=1.25, accuracy=0.5, images_per_second=1234)
progress.line("step 40 test loss 1.5")
progress.close()
print(progress.quiet)
"""


def test_a_log_gets_lines_only():
    done = subprocess.run(
        [sys.executable, "-c", _SHOW],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
    assert "step 40 test loss 1.5" in done.stderr
    assert "%" not in done.stderr


def test_a_terminal_gets_a_bar_with_what_is_left():
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, 120, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        [sys.executable, "-c", _SHOW], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 4096):
            output += part
    except OSError:  # The other end is closed.
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    text = output.decode()
    for part in (
        "40%",
        "40/100 steps",
        "left",
        "loss 1.250",
        "accuracy 50.0%",
        "1,234 img/s",
        "step 40 test loss 1.5",
    ):
        assert part in text, text
