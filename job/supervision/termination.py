"""Last words: a line where Kubernetes looks for it, and what people read.

`kubectl describe pod` shows what a container wrote into a file by its end;
outside a pod there is no such file, and nothing is written.

    write(75, "preempted: stopped by SIGTERM: all is saved up to step 40")
    say(2, "and the same for whoever reads the log")

Imports no TensorFlow; takes no lock, so that any thread may call it last.
"""

import contextlib
import os
import select
import time

# terminationMessagePath of a container, where its manifest names no other.
DEFAULT_PATH = "/dev/termination-log"
# For one that does.
PATH_VARIABLE = "JOB_TERMINATION_LOG"

# Kubernetes keeps so many bytes.
_MOST_BYTES = 4096


# Whoever reads the log may have stopped doing so: then nobody is told.
_PATIENCE_SECONDS = 1.0


def say(fd: int, text: str) -> None:
    """Writes text to a file descriptor that nobody may be reading.

    What is no longer than `select.PIPE_BUF` comes in one piece, or not at all;
    what is longer may be cut. Raises nothing, and returns in a second or two.

    Args:
      fd: of a pipe, a terminal or a file, blocking or not.
      text: with its newline.
    """
    left = text.encode()
    end = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.suppress(OSError):
        while (
            left
            and select.select([], [fd], [], max(0.0, end - time.monotonic()))[1]
        ):
            left = left[os.write(fd, left[: select.PIPE_BUF]) :]


def write(exit_code: int, text: str) -> None:
    """Replaces the message by one line; raises nothing.

    Args:
      exit_code: that the process is about to end with.
      text: how and why.
    """
    path = os.environ.get(PATH_VARIABLE) or DEFAULT_PATH
    line = " ".join(f"exit {exit_code}: {text}".split())
    with contextlib.suppress(OSError):
        # It is there, or this is no pod.
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, line.encode()[: _MOST_BYTES - 1] + b"\n")
        finally:
            os.close(file)
