"""Kills the shipped code before and after every storage call of a small run.

    python -m tests.support.kill_matrix DIR|gs://BUCKET/PATH RANDOM_KILLS

Prints one line per case. A case is a small training of 4 steps, and the job's
own saver saves each step. A signal hits one child before or after one of its
system calls or requests. Its newest checkpoint must be readable, and must not
be older than the last step that was reported as saved. A second child must
resume from there and end with the same bytes as a run without a kill. Children
are forked without TensorFlow, so a case takes a few milliseconds.
"""

import dataclasses
import errno
import itertools
import json
import os
import pathlib
import signal
import sys
import time
import uuid

import numpy as np
from google.cloud.storage import blob

from job.checkpoint import format as format_lib
from job.checkpoint import saver, store
from job.storage import Entry, Storage, disk, gcs
from job.supervision import preemption
from tests.support import storage_calls

STEPS = 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# In "damaged", the newest checkpoint is damaged, and a dead process has left an
# old temporary file.
DISK_SCENARIOS = ("plain", "no links", "damaged")
BUCKET_SCENARIOS = ("plain", "damaged")


@dataclasses.dataclass(frozen=True)
class Case:
    """A scenario, the number of the storage call, and a signal."""

    scenario: str
    call: int
    signal: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a case.

    Attributes:
      hit: Whether the first child ended as the signal demands, killed or with
        exit code 75.
      told: Newest step that its saver reported as committed. If 0, none.
      reached: Newest step that it computed before the signal.
      found: Newest step that a reader finds. If 0, none.
      unreadable: Number of committed checkpoints that are unreadable then.
      resumed: Whether the second child ended with exit code 0.
      equal: Whether its last tensors are those of a run without a kill.
    """

    case: Case
    hit: bool
    told: int
    reached: int
    found: int
    unreadable: int
    resumed: bool
    equal: bool

    @property
    def good(self) -> bool:
        kept = self.told if self.case.signal == "SIGKILL" else self.reached
        return (
            self.hit
            and self.resumed
            and self.equal
            and self.unreadable <= (self.case.scenario == "damaged")
            and self.found >= kept
        )


def compute(tensors: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """Returns the next state, which depends on every earlier one."""
    noise = np.random.default_rng(step).standard_normal(500, np.float32)
    return {name: value * 0.9 + noise for name, value in tensors.items()}


def begin() -> dict[str, np.ndarray]:
    return {f"model/{i}": np.full(500, i, np.float32) for i in range(3)}


def final() -> dict[str, bytes]:
    """Returns the tensors that all children must end with."""
    tensors = begin()
    for step in range(1, STEPS + 1):
        tensors = compute(tensors, step)
    return {name: value.tobytes() for name, value in tensors.items()}


def train(storage: Storage, report) -> int:
    """Trains as the job does; returns its exit code.

    Args:
      storage: Storage of the checkpoints.
      report: Function of "told" or "reached" and a step.
    """
    stop = preemption.StopRequest()
    stop.install()
    made = store.CheckpointStore(storage, keep=2)
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
            # Wait for the removal of old checkpoints at each step, so that two
            # runs make the same calls.
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
            # A write of such a short line is atomic, even in a killed process.
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


def prepare(open_storage, scenario: str) -> None:
    """Sets up the storage of a scenario, and this process for it."""
    if scenario == "no links":

        def refuse(*unused):
            raise OSError(errno.EPERM, "no hard links here")

        os.link = refuse
        disk.STALE_CLAIM_SECONDS = 0.0
    if scenario != "damaged":
        return
    made = store.CheckpointStore(open_storage())
    tensors = begin()
    for step in range(1, 4):
        tensors = compute(tensors, step)
        made.save(step, tensors, {})
    place = open_storage()
    with place.open(store.file_name(3)) as file:
        content = bytearray(file.read())
    content[-1] ^= 1
    place.delete(store.file_name(3))
    place.publish(store.file_name(3), [np.frombuffer(content, np.uint8)])
    if isinstance(place, disk.Disk):
        old = pathlib.Path(str(place), ".step-00000001.safetensors.staged-a")
        old.touch()
        os.utime(old, (0, 0))


def count_calls(open_storage, scenario: str) -> int:
    """Returns the number of storage calls of a training without a kill."""
    calls = []

    def child(report) -> int:
        prepare(open_storage, scenario)
        storage_calls.install(calls.append)
        code = train(open_storage(), lambda word, step: None)
        report("calls", len(calls))
        return code

    _, reports = fork(child)
    return reports["calls"]


def run_case(open_storage, case: Case) -> Outcome:
    """Runs one case in an empty storage.

    Args:
      open_storage: Function that opens the storage again, called in children.
      case: Storage call at which the first child gets a signal.
    """

    def first(report) -> int:
        prepare(open_storage, case.scenario)
        storage_calls.install(
            storage_calls.kill_at(case.call, signal.Signals[case.signal])
        )
        return train(open_storage(), report)

    def second(report) -> int:
        if case.scenario == "no links":
            prepare(open_storage, case.scenario)
        return train(open_storage(), report)

    status, reports = fork(first)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    obeyed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75
    before = store.CheckpointStore(open_storage())
    unreadable = sum(
        not is_readable(entry, open_storage())
        for entry in open_storage().find("step-")
        if store.SET_ASIDE not in entry.name
    )
    found = before.restore_newest(set_aside=False)
    status, _ = fork(second)
    after, tensors = store.CheckpointStore(open_storage()).restore_newest()
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
    )


def is_readable(entry: Entry, storage: Storage) -> bool:
    try:
        with storage.open(entry.name) as file:
            header = format_lib.read_header(file, entry.size)
            format_lib.read_tensors(file, header)
    except format_lib.InvalidCheckpointError:
        return False
    return True


def kill_at_random(open_storage, seed: int, kills: int) -> dict[str, int]:
    """Kills a training repeatedly, at seeded random times.

    Returns:
      Number of kills, and number of steps that were reported as committed but
      not found by the next start.
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
        made, tensors = store.CheckpointStore(open_storage()).restore_newest()
        assert all((value == made.step).all() for value in tensors.values())
        lost += max(0, told - made.step)
        told, done = made.step, done + 1
    assert not any(store.SET_ASIDE in e.name for e in open_storage().find())
    return {"kills": done, "lost": lost}


def train_for_ever(storage: Storage, writer: int) -> None:
    made = store.CheckpointStore(storage)
    found = made.restore_newest()
    for step in itertools.count(found[0].step + 1 if found else 1):
        tensors = {name: np.full(50000, step, np.float32) for name in "abc"}
        made.save(step, tensors, {})
        os.write(writer, f"{step}\n".encode())


def main(place: str, kills: int, resumable: bool = False) -> None:
    """Runs all cases.

    Args:
      place: Folder or gs://BUCKET/PATH.
      kills: Number of kills at random times.
      resumable: Whether the client starts an upload session for small files
        too, as it does for large ones.
    """
    if resumable:
        blob._MAX_MULTIPART_SIZE = 0

    def place_of(name: str):
        if place.startswith("gs://"):
            return lambda: gcs.Bucket(f"{place}/{name}", timeout_seconds=20.0)
        return lambda: disk.Disk(pathlib.Path(place) / name)

    is_disk = not place.startswith("gs://")
    for scenario in DISK_SCENARIOS if is_disk else BUCKET_SCENARIOS:
        calls = count_calls(place_of(uuid.uuid4().hex), scenario)
        for call, number in itertools.product(range(calls), SIGNALS):
            case = Case(scenario, call, number.name)
            outcome = run_case(place_of(uuid.uuid4().hex), case)
            fields = dataclasses.asdict(outcome)
            print(json.dumps({**fields, "good": outcome.good}), flush=True)
    random = kill_at_random(place_of("random"), 0, kills)
    print(json.dumps({"random": random}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "resumable" in sys.argv[3:])
