"""The guard against a run that is started again and again and gets nowhere.

A node that kills each pod within a minute, or a crash after each resume, makes
an endless loop that looks like work. So each start writes down which step it
found; ten in a row that found the same one are enough.

    with restarts.counted(workdir, newest_step):
        train(...)

Imports no TensorFlow, so that a start counts before anything heavy begins.
"""

import contextlib
import datetime
import pathlib
from collections.abc import Iterator
from typing import Any

from job import errors
from job.storage import files
from job.storage.workdir import STARTS

# So many starts in a row may find the same step; the next one is refused.
LIMIT = 10

# What a start says of its end if it was killed before it could say anything.
_NO_WORD = "killed, or hung, without a word"


@contextlib.contextmanager
def counted(workdir: pathlib.Path, step: int, file: str = "") -> Iterator[None]:
    """Counts this start, unless what follows ends in a way that is no loop.

    A start that is preempted counts as any other: where no step is gained, ten
    of them are a loop. One that ends with an error that the job foresees (a
    wrong field, no data, no device) does not: it says itself what would do. A
    step gained, or the end of the run, begins the count anew.

    Args:
      workdir: of the run; created if need be.
      step: of the newest checkpoint, -1 where there is none. One step lower
        than the last start's (a damaged checkpoint was put aside) is no gain.
      file: where a person finds the list, if not in that folder.

    Raises:
      ResumeError: the last `LIMIT` starts found no higher step than this one.
    """
    starts = read(workdir)
    if starts and step > starts[-1]["step"]:
        starts = []
    if len(starts) >= LIMIT:
        ends = "; ".join(_count_equal([start["end"] for start in starts]))
        found = f"step {step}" if step >= 0 else "no checkpoint"
        raise errors.ResumeError(
            f"{len(starts)} starts in a row found {found} and gained no step"
            f" ({ends}); when the cause is mended, remove"
            f" {file or workdir / STARTS}"
        )
    this: dict[str, Any] = {
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "end": _NO_WORD,
    }
    existed = workdir.exists()
    with files.translate_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir, [*starts, this])
    try:
        yield
    except errors.PreemptedError as error:
        this["end"] = f"preempted: {error}"
        _write(workdir, [*starts, this])
        raise
    except errors.JobError:
        _write(workdir, starts)
        if not existed:
            with contextlib.suppress(OSError):  # Something is in it.
                workdir.rmdir()
        raise
    except BaseException as error:
        this["end"] = f"{type(error).__name__}: {error}"[:200]
        _write(workdir, [*starts, this])
        raise
    _write(workdir, [])


def _count_equal(ends: list[str]) -> list[str]:
    return [f"{ends.count(end)} x {end}" for end in dict.fromkeys(ends)]


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the attempts since the last progress; none if unreadable.

    Args:
      workdir: Folder of the run.

    Returns:
      One dict per attempt, with at least `step` (newest checkpoint, -1 if there
      was none) and `end` (how it ended).
    """
    starts = files.read_json(workdir / STARTS)
    whole = isinstance(starts, list) and all(
        isinstance(start, dict)
        and isinstance(start.get("step"), int)
        and isinstance(start.get("end"), str)
        for start in starts
    )
    return starts if whole else []


def _write(workdir: pathlib.Path, starts: list[dict[str, Any]]) -> None:
    """Replaces the list; no list is no file."""
    if starts:
        files.write_json(workdir / STARTS, starts)
    else:
        (workdir / STARTS).unlink(missing_ok=True)
