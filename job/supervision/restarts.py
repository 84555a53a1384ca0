"""Limit on restarts without progress.

    with restarts.counted(workdir, newest_step):
        train(...)

A node that kills each pod within a minute, or a crash after each resume, causes
an endless loop. Each attempt therefore records the newest checkpoint's step at
its start, and the eleventh attempt in a row from the same step is refused. The
module does not import TensorFlow, so that attempts are recorded early.
"""

import contextlib
import datetime
import pathlib
from collections.abc import Iterator
from typing import Any

from job import errors
from job.storage import files, reader
from job.storage.workdir import STARTS

# Maximum number of attempts in a row from the same step.
LIMIT = 10

# Contents of the file; see `reader.Kind`.
_KIND = [{"step": reader.Number(-1, whole=True), "end": str}]

# End of an attempt that was killed before it recorded one.
_NO_WORD = "killed or hung without a message"


@contextlib.contextmanager
def counted(workdir: pathlib.Path, step: int, file: str = "") -> Iterator[None]:
    """Counts this attempt, unless the block ends with an expected error.

    Preempted attempts and those that lost a worker count too, because
    Kubernetes does not count them. An attempt that ends with another JobError,
    such as a wrong field, does not count, because a restart would end in the
    same way. Progress or the end of the run resets the count.

    Args:
      workdir: Folder of the run, created if absent.
      step: Step of the newest checkpoint, -1 without one. A step below that of
        the last attempt (whose checkpoint was set aside) is not progress.
      file: Path or URL of the list for messages. If "", its local path.

    Raises:
      ResumeError: The last `LIMIT` attempts made no progress.
    """
    starts = read(workdir)
    if starts and step > starts[-1]["step"]:
        starts = []
    if len(starts) >= LIMIT:
        ends = "; ".join(_count_equal([start["end"] for start in starts]))
        found = f"step {step}" if step >= 0 else "the start"
        raise errors.ResumeError(
            f"{len(starts)} attempts in a row made no progress beyond {found}"
            f" ({ends}). Fix: remove the cause, then delete"
            f" {file or workdir / STARTS}"
        )
    this: dict[str, Any] = {
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "end": _NO_WORD,
    }
    with files.translate_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir, [*starts, this])
    try:
        yield
    except (errors.PreemptedError, errors.PeerLostError) as error:
        kind = "preempted" if error.exit_code == 75 else "lost a worker"
        this["end"] = f"{kind}: {errors.first_line(error)}"
        _write(workdir, [*starts, this])
        raise
    except errors.JobError:
        # An error of a full disk must not replace this error.
        with contextlib.suppress(OSError, errors.StorageError):
            _write(workdir, starts)
        raise
    except BaseException as error:
        this["end"] = f"{type(error).__name__}: {error}"[:200]
        _write(workdir, [*starts, this])
        raise
    _write(workdir, [])


def _count_equal(ends: list[str]) -> list[str]:
    return [f"{ends.count(end)} x {end}" for end in dict.fromkeys(ends)]


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the attempts since the last progress, or [] if unreadable.

    Args:
      workdir: Folder of the run.

    Returns:
      One dict per attempt, with at least `step` (newest checkpoint, -1 without
      one) and `end` (cause of its end).
    """
    try:
        return reader.read_json(workdir / STARTS, _KIND) or []
    except reader.DamagedError:
        return []


def _write(workdir: pathlib.Path, starts: list[dict[str, Any]]) -> None:
    """Replaces the list, or deletes the file if the list is empty."""
    if starts:
        files.write_json(workdir / STARTS, starts)
    else:
        (workdir / STARTS).unlink(missing_ok=True)
