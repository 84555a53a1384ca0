"""The last line of a run: termination message of a pod, and standard error.

    write(75, "preempted: stopped by SIGTERM: all is saved up to step 40")
    say("the same line for the log")

`kubectl describe pod` shows the message that a container wrote to a file before
its end. Outside of a pod the file does not exist, and nothing is written.
Imports no TensorFlow, and takes no lock, so that any thread may call it last.
"""

import contextlib
import os
import select
import time

# Default terminationMessagePath of a container.
DEFAULT_PATH = "/dev/termination-log"
# Environment variable with another path.
PATH_VARIABLE = "JOB_TERMINATION_LOG"

# Size limit of a termination message in Kubernetes.
_MOST_BYTES = 4096

# Time to wait for a pipe whose reader is slow or has stopped reading.
_PATIENCE_SECONDS = 1.0


def say(text: str) -> None:
    """Writes text to standard error, whose reader may have stopped.

    Text of up to `select.PIPE_BUF` bytes is written in one piece or not at all;
    longer text may be cut. Raises nothing, and returns within two seconds.

    Args:
      text: Text with its newline.
    """
    fd = 2  # Not sys.stderr, which another thread may have locked.
    left = text.encode()
    end = time.monotonic() + _PATIENCE_SECONDS
    with contextlib.suppress(OSError):
        while (
            left
            and select.select([], [fd], [], max(0.0, end - time.monotonic()))[1]
        ):
            left = left[os.write(fd, left[: select.PIPE_BUF]) :]


def write(exit_code: int, text: str) -> None:
    """Replaces the termination message by one line; raises nothing.

    Args:
      exit_code: Exit code that the process is about to end with.
      text: Kind and cause of the end.
    """
    path = os.environ.get(PATH_VARIABLE) or DEFAULT_PATH
    line = " ".join(f"exit {exit_code}: {text}".split())
    with contextlib.suppress(OSError):
        # Without O_CREAT: the file exists if and only if this is a pod.
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, line.encode()[: _MOST_BYTES - 1] + b"\n")
        finally:
            os.close(file)
