"""Last line of a run, in the termination message of a pod and on stderr.

    write(75, "preempted: stopped by SIGTERM: all is saved up to step 40")
    say("the same line for the log")

`kubectl describe pod` shows the message that a container wrote to a file before
its end. Outside of a pod the file does not exist, and nothing is written. The
functions take no lock, so that any thread may call them last. The module does
not import TensorFlow.
"""

import contextlib
import io
import os
import select
import sys
import time
from typing import Any

# Default terminationMessagePath of a container.
DEFAULT_PATH = "/dev/termination-log"
# Environment variable that replaces the path.
PATH_VARIABLE = "JOB_TERMINATION_LOG"

# Size limit of a termination message in Kubernetes.
_MOST_BYTES = 4096

# Time limit for a pipe whose reader is slow or has stopped.
_PATIENCE_SECONDS = 1.0


class _LossyFile(io.FileIO):
    """File that drops data after a failed write."""

    def write(self, data: Any) -> int:
        """Writes data and returns its size, even if the write fails."""
        with contextlib.suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


def open_streams() -> None:
    """Opens closed standard streams, and makes stderr lossy.

    Otherwise the next file would get the number of a closed stream, and the
    loss of the log's reader would end the run.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
    if not sys.stdin:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    if not sys.stdout:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may contain bytes that cannot be decoded.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_LossyFile(2, "w", closefd=False)),
        encoding=sys.stderr.encoding if sys.stderr else "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def say(text: str) -> None:
    """Writes text to standard error, even if its reader has stopped.

    Text of up to `select.PIPE_BUF` bytes is written completely or not at all,
    and longer text may be cut. The call raises nothing and returns within two
    seconds.

    Args:
      text: Text with its newline.
    """
    fd = 2  # Another thread may have locked sys.stderr.
    left = text.encode(errors="backslashreplace")
    end = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.suppress(OSError):
        while (
            left
            and select.select([], [fd], [], max(0.0, end - time.monotonic()))[1]
        ):
            left = left[os.write(fd, left[: select.PIPE_BUF]) :]


def write(exit_code: int, text: str) -> None:
    """Replaces the termination message by one line, without raising errors.

    Args:
      exit_code: Exit code of the process.
      text: Kind and cause of the end.
    """
    path = os.environ.get(PATH_VARIABLE) or DEFAULT_PATH
    line = " ".join(f"exit {exit_code}: {text}".split())
    with contextlib.suppress(OSError):
        # O_CREAT is left out, because the file exists if and only if this is a
        # pod. A FIFO without a reader would block.
        file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
        try:
            content = line.encode(errors="backslashreplace")
            os.write(file, content[: _MOST_BYTES - 1] + b"\n")
        finally:
            os.close(file)
