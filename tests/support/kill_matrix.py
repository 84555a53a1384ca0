"""Kills the shipped code at every named point of a save, and starts it again.

    python -m tests.support.kill_matrix DIR|gs://BUCKET/PATH

Prints one line per case. A case is a small training of 6 steps, saved at each
by the job's own saver. One child is killed at a point of
`job/storage/faults.py`; what it left must be readable and must not be older
than what it was told was saved; a second child must resume from there and end
with the very bytes of a run without a kill.
No TensorFlow, and children are forked: a case takes some milliseconds.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import signal
import sys
import time
import uuid

import numpy as np

from job.checkpoint import layout, manifest, retention, saver, store
from job.storage import Storage, disk, faults, gcs
from job.supervision import preemption

STEPS = 6
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# On a disk or in a bucket only.
ONLY_DISK = frozenset({"data.written", "manifest.staged"})
ONLY_BUCKET = frozenset({"quarantine.copied"})
# Of these there are 3 a save; of the others one, or none until it is late.
_PER_FILE = ("data.begin", "data.written", "data.stored")
_RARE = ("retire", "sweep", "quarantine")


@dataclasses.dataclass(frozen=True)
class Case:
    """A point, the how-manieth time it is reached, and a signal."""

    point: str
    time: int
    signal: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
      hit: whether the first child ended as the signal asks for: dead, or with
        exit code 75.
      told: the newest step that its saver had called committed; 0: none.
      reached: the newest step that it had computed when the signal came.
      found: the newest step that a reader finds; 0: none.
      unreadable: how many committed checkpoints cannot be read then.
      resumed: whether the second child ended well.
      equal: whether its last tensors are those of a run without a kill.
      left: files that are in no checkpoint, when all is over.
    """

    case: Case
    hit: bool
    told: int
    reached: int
    found: int
    unreadable: int
    resumed: bool
    equal: bool
    left: int

    @property
    def good(self) -> bool:
        kept = self.told if self.case.signal == "SIGKILL" else self.reached
        early = self.case.point.startswith("quarantine")
        return (
            self.hit
            and self.resumed
            and self.equal
            and self.unreadable == int(early)
            and (early or self.found >= kept)
        )


def cases(is_disk: bool) -> list[Case]:
    """Returns every point, at its first time and at a later one."""
    left_out = ONLY_BUCKET if is_disk else ONLY_DISK
    found = []
    for point in faults.POINTS:
        if point in left_out:
            continue
        later = 11 if point in _PER_FILE else 4
        times = (1,) if point.startswith(_RARE) else (1, later)
        for when, number in itertools.product(times, SIGNALS):
            found.append(Case(point, when, number.name))
    return found


def compute(tensors: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """Returns the next state: it depends on every earlier one."""
    noise = np.random.default_rng(step).standard_normal(500, np.float32)
    return {name: value * 0.9 + noise for name, value in tensors.items()}


def begin() -> dict[str, np.ndarray]:
    return {f"model/{i}": np.full(500, i, np.float32) for i in range(3)}


def final() -> dict[str, bytes]:
    """Returns what all children must end with."""
    tensors = begin()
    for step in range(1, STEPS + 1):
        tensors = compute(tensors, step)
    return {name: value.tobytes() for name, value in tensors.items()}


def open_store(storage: Storage, **kwargs) -> store.CheckpointStore:
    """Opens a store that writes one file per tensor."""
    return store.CheckpointStore(storage, keep=2, file_bytes=2000, **kwargs)


def train(
    storage: Storage,
    report,
    *,
    abandoned_seconds: float = retention.ABANDONED_SECONDS,
) -> int:
    """Trains as the job does; returns its exit code.

    Args:
      storage: Storage of the checkpoints.
      report: Called with "told" or "reached" and a step.
      abandoned_seconds: See `retention.abandoned`.
    """
    stop = preemption.StopRequest()
    stop.install()
    made = open_store(storage, abandoned_seconds=abandoned_seconds)
    found = made.restore_newest()
    step, tensors = (found[0].step, found[1]) if found else (0, begin())
    report("reached", step)
    with saver.AsyncSaver(
        made, committed_step=step or None, first_wait_seconds=0.01
    ) as saving:
        while step < STEPS and not stop.requested:
            step += 1
            tensors = compute(tensors, step)
            report("reached", step)
            saving.save(step, tensors, {"step": step})
            report("told", saving.flush(timeout=20.0))
            # Who is in a hurry at each step has old ones removed at none.
            saving.wait(20.0)
        saving.flush(timeout=20.0)
    return 75 if stop.requested else 0


def fork(function, *args) -> tuple[int, dict[str, int]]:
    """Runs a function in a child; returns its wait status and its reports."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            # Lines this short are written whole, also by one who is killed.
            code = function(
                *args,
                lambda word, step: os.write(
                    writer, f"{word} {step}\n".encode()
                ),
            )
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        reports = dict(line.split() for line in lines)
    _, status = os.waitpid(child, 0)
    return status, {word: int(step) for word, step in reports.items()}


def run_case(open_storage, case: Case) -> Outcome:
    """Runs one case in an empty place.

    Args:
      open_storage: returns the place, opened again; called in children.
      case: what to kill, when and how.
    """
    if case.point.startswith("quarantine"):
        fork(lambda report: train_some(open_storage(), 3))
        storage = open_storage()
        for entry in storage.find("step-00000003/tensors-1"):
            storage.delete(entry.name)

    def first(report) -> int:
        faults.hook = faults.kill_at(f"{case.point}:{case.time}={case.signal}")
        if not case.point.startswith("sweep"):
            return train(open_storage(), report)
        open_storage().create({"step-00000001/tensors-0-dead00.bin": b"x"})
        return train(open_storage(), report, abandoned_seconds=-1.0)

    status, reports = fork(first)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    obeyed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75
    before = open_store(open_storage())
    unreadable = sum(
        not is_readable(before, s) for s in committed(open_storage())
    )
    found = before.restore_newest(quarantine=False)
    status, _ = fork(lambda report: train(open_storage(), report))
    after, tensors = open_store(open_storage()).restore_newest()
    last = {name: value.tobytes() for name, value in tensors.items()}
    return Outcome(
        case,
        hit=killed if case.signal == "SIGKILL" else obeyed,
        told=reports.get("told", 0),
        reached=reports.get("reached", 0),
        found=found[0].step if found else 0,
        unreadable=unreadable,
        resumed=os.waitstatus_to_exitcode(status) == 0,
        equal=after.step == STEPS and last == final(),
        left=len(open_storage().find()) - 2 * (3 + 1),
    )


def committed(storage: Storage) -> list[int]:
    """Returns the committed steps and the quarantined ones."""
    listing = layout.find(storage)
    return sorted(
        {
            *layout.committed(listing),
            *(
                step
                for step, entries in listing.items()
                if any(layout.QUARANTINED in entry.name for entry in entries)
            ),
        }
    )


def is_readable(made: store.CheckpointStore, step: int) -> bool:
    try:
        made.read(step)
    except (manifest.InvalidCheckpointError, store.RetiredError):
        return False
    return True


def train_some(storage: Storage, steps: int) -> int:
    tensors = begin()
    made = open_store(storage)
    for step in range(1, steps + 1):
        tensors = compute(tensors, step)
        made.save(step, tensors, {})
    return 0


def kill_at_random(open_storage, seed: int, kills: int) -> dict[str, int]:
    """Kills a training again and again, at seeded random times.

    Returns:
      How many kills there were, and how many of the steps that were called
      committed were not found by the next start.
    """
    rng = np.random.default_rng(seed)
    told = lost = done = 0
    while done < kills:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                train_for_ever(open_storage(), writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as lines:
            lines.readline()
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told = max([told, *(int(line) for line in lines)])
        made, tensors = open_store(open_storage()).restore_newest()
        assert all((value == made.step).all() for value in tensors.values())
        lost += max(0, told - made.step)
        told, done = made.step, done + 1
    return {"kills": done, "lost": lost}


def train_for_ever(storage: Storage, writer: int) -> None:
    made = open_store(storage)
    for step in itertools.count(max(made.committed_steps(), default=0) + 1):
        tensors = {name: np.full(5000, step, np.float32) for name in "abc"}
        made.save(step, tensors, {})
        os.write(writer, f"{step}\n".encode())


def main(place: str, kills: int) -> None:
    def place_of(name: str):
        if place.startswith("gs://"):
            return lambda: gcs.Bucket(f"{place}/{name}", timeout_seconds=20.0)
        return lambda: disk.Disk(pathlib.Path(place) / name)

    for case in cases(is_disk=not place.startswith("gs://")):
        outcome = run_case(place_of(uuid.uuid4().hex), case)
        fields = dataclasses.asdict(outcome)
        print(json.dumps({**fields, "good": outcome.good}), flush=True)
    random = kill_at_random(place_of("random"), 0, kills)
    print(json.dumps({"random": random}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
