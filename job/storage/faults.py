"""Fault points: named points of a save at which a test kills the process.

Mocks cannot prove that a save survives a kill. So the shipped code calls
`reach` wherever a kill could leave something half done. A call costs a
comparison with None, unless the environment has, for example,

    CHECKPOINT_FAULT=manifest.published:3=SIGKILL

Then the process receives that signal the third time it reaches the point. The
tests do so at every point, on every storage. Imports no TensorFlow.
"""

import os
import re
import signal
import threading
from collections.abc import Callable

VARIABLE = "CHECKPOINT_FAULT"

# In the order in which a save reaches them. Points that only a disk or only a
# bucket has are marked. Points of single files are reached once per file.
POINTS = (
    "save.begin",  # Nothing is written.
    "data.begin",  # A file of tensors is next.
    "data.written",  # Disk: it is written but not flushed.
    "data.stored",  # It is durable.
    "data.all",  # All files are durable.
    "manifest.begin",  # The commit is next.
    "manifest.staged",  # Disk: the manifest is written under another name.
    "manifest.published",  # The checkpoint is committed.
    "save.committed",  # The writer knows of the commit.
    "retire.begin",  # An older checkpoint is deleted next.
    "retire.manifest",  # Its manifest is deleted.
    "retire.data",  # A file of its data is deleted.
    "sweep.data",  # An abandoned file is deleted.
    "save.end",  # Garbage collection is over.
    "quarantine.begin",  # A damaged checkpoint is renamed next.
    "quarantine.copied",  # Bucket: its manifest has both names.
    "quarantine.end",  # It has the new name only.
)

_SPEC = re.compile(r"([a-z]+\.[a-z]+)(?::([1-9][0-9]*))?=(SIG[A-Z0-9]+)")

# Function that `reach` calls. If None, it calls nothing.
hook: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Calls the hook, if any, with the name of the point."""
    if hook is not None:
        hook(point)


def kill_at(spec: str) -> Callable[[str], None]:
    """Returns a hook that sends this process a signal.

    Args:
      spec: POINT=SIGNAL, or POINT:N=SIGNAL for the N-th time.

    Raises:
      ValueError: No point or signal has that name.
    """
    match = _SPEC.fullmatch(spec)
    if not match or match[1] not in POINTS or match[3] not in dir(signal):
        raise ValueError(
            f"{VARIABLE}={spec}: it must be POINT=SIGNAL or POINT:N=SIGNAL,"
            f" with a point of {', '.join(POINTS)}"
        )
    wanted, left = match[1], int(match[2] or 1)
    number = signal.Signals[match[3]]
    lock = threading.Lock()  # Several threads upload files.

    def count(point: str) -> None:
        nonlocal left
        with lock:
            if point != wanted:
                return
            left -= 1
            if not left:
                os.kill(os.getpid(), number)

    return count


if os.environ.get(VARIABLE):
    hook = kill_at(os.environ[VARIABLE])
