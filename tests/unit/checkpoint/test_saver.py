"""Asynchronous saving: bounded, reported and awaited at the end."""

import os
import re
import threading
import time
import weakref

import numpy as np
import pytest

from job import errors
from job.checkpoint import saver, store
from tests.support.storage_calls import HookedStorage

# Outage of the store in seconds. The design guarantees ten minutes.
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "1.0"))


class Outage:
    """Hook before each upload of a checkpoint, without effect at first."""

    def __init__(self) -> None:
        self.happen = lambda: None

    def __call__(self, point: str) -> None:
        if point == "publish.begin":
            self.happen()


@pytest.fixture
def outage() -> Outage:
    return Outage()


@pytest.fixture
def made(place, outage) -> store.CheckpointStore:
    storage = HookedStorage(place.open(), outage)
    return store.CheckpointStore(storage, keep=2)


def unavailable():
    raise errors.UnavailableError("the store is away")


def tensors(step):
    return {"a": np.full(1000, step, np.float32)}


def newest(made):
    found, content = made.restore_newest()
    assert (content["a"] == found.step).all()
    return found.step


def test_the_loop_does_not_wait(made, outage):
    gate = threading.Event()
    outage.happen = gate.wait
    with saver.AsyncSaver(made) as saving:
        saving.save(1, tensors(1), {})
        assert saving.committed_step is None
        assert not saving.wait(0.01)
        gate.set()
        assert saving.flush() == 1
        assert saving.committed_step == 1
        ((size, seconds),) = saving.commits
        assert 4000 < size < 5000
        assert seconds > 0
    assert newest(made) == 1


def test_only_the_running_and_the_newest_snapshot_are_held(made, outage):
    gate, begun = threading.Event(), threading.Event()

    def block():
        begun.set()
        gate.wait()

    outage.happen = block
    held = []
    with saver.AsyncSaver(made, slow_seconds=0.0) as saving:
        for step in range(1, 6):
            arrays = tensors(step)
            held.append(weakref.ref(arrays["a"]))
            saving.save(step, arrays, {})
            del arrays
            assert begun.wait(10.0)
        # One is being written, and the newest one is pending.
        assert [ref() is not None for ref in held] == [True, *[False] * 3, True]
        gate.set()
        assert saving.flush() == 5
    assert made.committed_steps() == [1, 5]


def test_a_fast_store_drops_no_checkpoint(made):
    with saver.AsyncSaver(made, slow_seconds=60.0) as saving:
        for step in range(1, 21):
            saving.save(step, tensors(step), {})
        saving.flush()
        assert len(saving.commits) == 20


def test_an_outage_stops_no_step_and_the_newest_is_saved_after_it(
    made, outage, caplog
):
    over = time.monotonic() + OUTAGE_SECONDS
    away = threading.Event()
    away.set()
    outage.happen = lambda: away.is_set() and unavailable()
    step = 0
    with saver.AsyncSaver(made, first_wait_seconds=0.02) as saving:
        while time.monotonic() < over:
            step += 1
            saving.save(step, tensors(step), {})
            time.sleep(0.02)
        assert saving.committed_step is None
        away.clear()
        assert saving.flush() == step
    assert step > 5
    assert made.committed_steps() == [step]
    assert re.search(r"Retrying in \d+ s: .*the store is away", caplog.text)


def test_a_lost_race_stops_further_commits(made, place, outage):
    """A pending commit could be ahead of the winner, which would then lose."""
    gate, begun = threading.Event(), threading.Event()

    def block():
        begun.set()
        gate.wait()

    outage.happen = block
    saving = saver.AsyncSaver(made)
    saving.save(21, tensors(21), {})
    assert begun.wait(10.0)
    saving.save(28, tensors(28), {})
    outage.happen = lambda: None
    store.CheckpointStore(place.open()).save(21, tensors(21), {})
    gate.set()
    with pytest.raises(errors.LostRaceError):
        saving.flush()
    for thread in threading.enumerate():
        if thread.name == saver.THREAD:
            thread.join(10.0)
    assert made.committed_steps() == [21]


@pytest.mark.timeout(60)
def test_an_outage_in_garbage_collection_stops_no_step(made, monkeypatch):
    gate, begun = threading.Event(), threading.Event()
    tidy = made.tidy

    def block(*args):
        tidy(*args)
        begun.set()
        gate.wait()

    monkeypatch.setattr(made, "tidy", block)
    with saver.AsyncSaver(made, slow_seconds=1.0) as saving:
        saving.save(1, tensors(1), {})
        assert begun.wait(10.0)
        # Only the first save that finds a pending one waits for a second.
        for step in range(2, 102):
            saving.save(step, tensors(step), {})
        gate.set()
        assert saving.flush() == 101
    assert made.committed_steps() == [1, 101]


def test_retries_are_at_growing_intervals(made, outage):
    tries = []

    def fail():
        tries.append(time.monotonic())
        if len(tries) < 5:
            unavailable()

    outage.happen = fail
    with saver.AsyncSaver(made, first_wait_seconds=0.05) as saving:
        saving.save(1, tensors(1), {})
        while not saving.wait(1.0):
            pass
    gaps = np.diff(tries)
    assert (gaps >= [0.05, 0.1, 0.2, 0.4]).all()


def test_flush_retries_immediately(made, outage):
    tries = []

    def fail_once():
        tries.append(1)
        if len(tries) == 1:
            unavailable()

    outage.happen = fail_once
    with saver.AsyncSaver(made, first_wait_seconds=3600.0) as saving:
        saving.save(1, tensors(1), {})
        while not tries:
            time.sleep(0.01)
        assert saving.flush(timeout=10.0) == 1


@pytest.mark.parametrize("hangs", [False, True])
def test_a_deadline_holds_and_names_the_unsaved_step(made, outage, hangs):
    gate = threading.Event()
    saving = saver.AsyncSaver(made, first_wait_seconds=0.05)
    saving.save(1, tensors(1), {})
    saving.flush()
    outage.happen = gate.wait if hangs else unavailable
    saving.save(2, tensors(2), {})
    with pytest.raises(errors.StorageError, match="step 2 was not committed"):
        saving.flush(timeout=0.5)
    assert saving.committed_step == 1
    gate.set()
    saving.close()


def test_patience_ends(made, outage):
    outage.happen = unavailable
    saving = saver.AsyncSaver(
        made, patience_seconds=0.2, first_wait_seconds=0.05
    )

    def save_on():
        # Newer checkpoints do not restart the patience.
        for step in range(1, 1000):
            saving.save(step, tensors(step), {})
            time.sleep(0.02)

    with pytest.raises(errors.UnavailableError, match="the store is away"):
        save_on()


@pytest.mark.parametrize(
    "error",
    [
        errors.StorageError("no space left"),
        errors.LostRaceError("another one"),
        ZeroDivisionError("a bug"),
    ],
)
def test_a_permanent_error_is_raised_by_the_next_call(made, outage, error):
    def fail():
        raise error

    outage.happen = fail
    saving = saver.AsyncSaver(made)
    saving.save(1, tensors(1), {})
    calls = [
        saving.flush,
        saving.check,
        lambda: saving.wait(1.0),
        lambda: saving.save(2, tensors(2), {}),
    ]
    for call in calls:
        with pytest.raises(type(error)):
            call()
    assert saving.committed_step is None


def test_a_bug_elsewhere_lets_the_running_save_finish(made, outage):
    gate = threading.Event()
    outage.happen = lambda: gate.wait(0.2)

    def train():
        with saver.AsyncSaver(made) as saving:
            saving.save(1, tensors(1), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert newest(made) == 1
