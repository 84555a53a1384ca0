"""Named points of a save at which a test ends the process that saves.

A save that was only ever tried with mocks is not known to survive a kill. So
the code that is shipped calls `reach` wherever a kill could leave something
half done; it costs a comparison with None, unless the environment says

    CHECKPOINT_FAULT=manifest.published:3=SIGKILL

that is: the third time that this point is reached, send the process that
signal. The suite does so at every point, on every store; nothing else should.
Imports no TensorFlow.
"""

import os
import re
import signal
import threading
from collections.abc import Callable

VARIABLE = "CHECKPOINT_FAULT"

# In the order in which a save reaches them; those of a disk or a bucket only
# are marked. Points of single files are reached once a file.
POINTS = (
    "save.begin",  # Nothing is written.
    "data.begin",  # Of a file of tensors.
    "data.written",  # Disk: it has its bytes, which may not be on the disk.
    "data.stored",  # It is there to stay.
    "data.all",  # All files are.
    "manifest.begin",  # The commit is next.
    "manifest.staged",  # Disk: the manifest is written, under another name.
    "manifest.published",  # It is committed; nobody has been told.
    "save.committed",  # The writer knows.
    "retire.begin",  # An older checkpoint goes.
    "retire.manifest",  # Its manifest is gone, its data is not.
    "retire.data",  # So is a file of its data.
    "sweep.data",  # A file that a dead writer left is gone.
    "save.end",  # All is done.
    "quarantine.begin",  # A damaged checkpoint is put aside.
    "quarantine.copied",  # Bucket: its manifest has both names.
    "quarantine.end",  # It is.
)

_SPEC = re.compile(r"([a-z]+\.[a-z]+)(?::([1-9][0-9]*))?=(SIG[A-Z0-9]+)")

# What `reach` calls; None: nothing.
hook: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Says that the process is at a named point."""
    if hook is not None:
        hook(point)


def kill_at(spec: str) -> Callable[[str], None]:
    """Returns a hook that sends this process a signal.

    Args:
      spec: POINT=SIGNAL or POINT:N=SIGNAL, at the N-th time.

    Raises:
      ValueError: there is no such point or signal.
    """
    match = _SPEC.fullmatch(spec)
    if not match or match[1] not in POINTS or match[3] not in dir(signal):
        raise ValueError(
            f"{VARIABLE}={spec}: it must be POINT=SIGNAL or POINT:N=SIGNAL,"
            f" with a point of {', '.join(POINTS)}"
        )
    wanted, left = match[1], int(match[2] or 1)
    number = signal.Signals[match[3]]
    lock = threading.Lock()  # Files go up in several threads.

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
