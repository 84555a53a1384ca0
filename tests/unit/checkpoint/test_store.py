"""Commit protocol: a committed checkpoint stays readable after any failure.

A test runs on a disk and on a bucket, unless it is specific to one of them.
"""

import io
import os
import pathlib
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from job import errors
from job.checkpoint import format as format_lib
from job.checkpoint import store
from job.storage import disk
from tests.support.jobs import ROOT
from tests.support.places import DiskPlace
from tests.support.storage_calls import HookedStorage

RUN = {"seed": 0}


def tensors(value: float) -> dict[str, np.ndarray]:
    return {
        "step": np.array(int(value), np.int64),
        "model/kernel": np.full((3, 4), value, np.float32),
        "model/empty": np.zeros((0,), np.float32),
    }


@pytest.fixture
def checkpoints(place):
    """Returns a store with checkpoints of steps 1, 2 and 3."""
    made = store.CheckpointStore(place.open(), keep=3)
    for step in (1, 2, 3):
        made.save(step, tensors(step), RUN)
    return made


def newest(checkpoints):
    found, content = checkpoints.restore_newest()
    assert content["model/kernel"][0, 0] == found.step
    return found.step


def names(place) -> set[str]:
    return set(place.files())


def aside(place) -> list[str]:
    return [name for name in names(place) if store.SET_ASIDE in name]


def hooked(place, hooks) -> store.CheckpointStore:
    """Returns a store whose storage calls `hooks` before and after a call."""

    def hook(point):
        for each in [*hooks]:
            each(point)

    return store.CheckpointStore(HookedStorage(place.open(), hook))


def test_a_saved_checkpoint_is_read_back(checkpoints):
    found, content = checkpoints.restore_newest()
    assert (found.step, found.run) == (3, RUN)
    wanted = tensors(3)
    assert content.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(content[name], array)
        assert content[name].dtype == array.dtype
        assert content[name].shape == array.shape
    assert checkpoints.newest_header() == found


def test_a_checkpoint_is_one_file(checkpoints, place):
    assert names(place) == {store.file_name(step) for step in (1, 2, 3)}


def test_a_large_checkpoint_is_read_in_ranges(place, monkeypatch):
    """Reading needs memory for the tensors and a few blocks."""
    monkeypatch.setattr(format_lib, "BLOCK_BYTES", 2**20)
    large = {
        "a": np.arange(3 * 2**20, dtype=np.float32),
        "b": np.arange(1000, dtype=np.int64),
    }
    made = store.CheckpointStore(place.open())
    made.save(1, large, RUN)
    _, found = made.restore_newest()
    for name, array in large.items():
        assert found[name].tobytes() == array.tobytes()


def test_an_absent_or_empty_folder_has_no_checkpoint(place, tmp_path):
    assert store.CheckpointStore(place.open()).restore_newest() is None
    assert store.CheckpointStore(tmp_path).restore_newest() is None


def flip_bit(place, step, at=-1):
    content = bytearray(place.files()[store.file_name(step)])
    content[at] ^= 1
    place.put(store.file_name(step), bytes(content))


def rewrite(change):
    """Returns a function that changes the bytes of the newest file."""

    def damage(place):
        name = store.file_name(3)
        place.put(name, change(place.files()[name]))

    return damage


def other_step(content):
    file = io.BytesIO(content)
    found = format_lib.read_header(file, len(content))
    tensors = format_lib.read_tensors(file, found)
    pieces = format_lib.encode(7, tensors, found.run)
    return b"".join(piece.tobytes() for piece in pieces)


DAMAGE = {
    "bit flip": lambda place: flip_bit(place, 3),
    "bit flip in the header": lambda place: flip_bit(place, 3, 30),
    "one digit of the seed": rewrite(
        lambda c: c.replace(b'd\\": 0', b'd\\": 1')
    ),
    "cut short": rewrite(lambda content: content[:-5]),
    "cut in the header": rewrite(lambda content: content[:50]),
    "empty": rewrite(lambda content: b""),
    "longer": rewrite(lambda content: content + b"\0"),
    "no safetensors": rewrite(lambda content: b"\x89HDF" + content),
    "zeros": rewrite(lambda content: bytes(len(content))),
    "another step": rewrite(other_step),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_set_aside_and_the_one_before_is_used(
    checkpoints, place, damage
):
    before = place.files()
    DAMAGE[damage](place)
    assert place.files() != before
    assert newest(checkpoints) == 2
    assert len(aside(place)) == 1
    assert newest(checkpoints) == 2
    checkpoints.save(3, tensors(3), RUN)
    assert newest(checkpoints) == 3


def test_only_damaged_checkpoints_is_exit_4_with_every_cause(
    checkpoints, place
):
    for step in (1, 2, 3):
        flip_bit(place, step)
    for _ in range(2):
        with pytest.raises(errors.ResumeError) as caught:
            checkpoints.restore_newest()
        for step in (1, 2, 3):
            assert store.file_name(step) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(aside(place)) == 3


def test_a_newer_format_is_kept_and_ends_the_attempt(
    checkpoints, place, monkeypatch
):
    with monkeypatch.context() as later:
        later.setattr(format_lib, "FORMAT", 3)
        checkpoints.save(4, tensors(4), RUN)
    before = place.files()
    with pytest.raises(errors.ResumeError, match=r"step-00000004.*format 3"):
        checkpoints.restore_newest()
    assert place.files() == before


def test_only_the_newest_are_kept(place):
    made = store.CheckpointStore(place.open(), keep=2)
    for step in range(10, 15):
        made.save(step, tensors(step), RUN)
    assert made.committed_steps() == [13, 14]


@pytest.mark.parametrize(
    ("steps", "scores", "deleted"),
    [
        ([1, 2, 3, 4], None, [1, 2]),
        ([1, 2], None, []),
        ([4], None, []),
        ([1, 2, 3, 4], {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2}, [1]),
        # The newest of equal scores is the best.
        ([1, 2, 3, 4], {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.1}, [1]),
        ([1, 2, 3, 4], {1: 0.5, 2: 0.1, 3: 0.1, 4: 0.7}, [1, 2]),
    ],
)
def test_the_newest_and_the_best_are_kept(steps, scores, deleted):
    assert store.superseded(steps, keep=2, scores=scores) == deleted


def test_a_later_attempt_reads_the_best_from_the_headers(place):
    made = store.CheckpointStore(place.open(), keep=2, best_by="accuracy")
    for step, accuracy in enumerate([0.1, 0.9, None, 0.5, 0.3, 0.2]):
        made.save(step, tensors(step), {"accuracy": accuracy})
    assert made.committed_steps() == [1, 4, 5]
    made = store.CheckpointStore(place.open(), keep=2, best_by="accuracy")
    made.restore_newest()
    made.save(6, tensors(6), {"accuracy": 0.9})
    assert made.committed_steps() == [5, 6]
    made.save(7, tensors(7), {"accuracy": 0.1})
    made.save(8, tensors(8), {"accuracy": 0.1})
    assert made.committed_steps() == [6, 7, 8]


def test_keep_below_2_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        store.CheckpointStore(tmp_path, keep=1)


@pytest.mark.parametrize("step", [4, 5, 9])
def test_a_process_that_another_has_overtaken_loses(place, step):
    """It loses with a later step too, and writes no file."""
    one, other = (store.CheckpointStore(place.open()) for _ in range(2))
    one.save(5, tensors(5), {"writer": "one"})
    before = place.files()
    with pytest.raises(errors.LostRaceError, match="step-00000005"):
        other.save(step, tensors(step), {"writer": "other"})
    assert place.files() == before
    one.save(10, tensors(10), {"writer": "one"})


def test_the_first_of_two_writers_of_a_step_wins(place):
    one = store.CheckpointStore(place.open())

    def overtake(point):
        if point == "publish.begin":
            one.save(5, tensors(5), {"writer": "one"})

    hooks = [overtake]
    other = hooked(place, hooks)
    with pytest.raises(errors.LostRaceError):
        other.save(5, tensors(5), {"writer": "other"})
    assert newest(one) == 5
    assert one.newest_header().run == {"writer": "one"}
    assert len(names(place)) == 1


def test_one_of_two_writers_of_different_steps_continues(place):
    one = store.CheckpointStore(place.open())

    def overtake(point):
        if point == "publish.begin":
            hooks.clear()
            one.save(4, tensors(4), {"writer": "one"})

    hooks = [overtake]
    other = hooked(place, hooks)
    other.save(5, tensors(5), {"writer": "other"})
    with pytest.raises(errors.LostRaceError):
        one.save(8, tensors(8), {"writer": "one"})
    other.save(10, tensors(10), {"writer": "other"})


@pytest.mark.parametrize("keep", [2, 30])
def test_two_writers_share_the_steps_and_both_end_cleanly(place, keep):
    """Each step has one winner, and no file is removed while it is read.

    A writer that waits for two steps of the other one may repeat a step that
    was deleted in the meantime. It is removed by the next save.
    """
    rng = np.random.default_rng(0)
    won = {0: [], 1: []}
    failures = []

    def write(number, pauses):
        try:
            for step in range(1, 31):
                time.sleep(pauses[step])
                made = store.CheckpointStore(place.open(), keep=keep)
                found = made.restore_newest()
                if found is None or found[0].step < step:
                    try:
                        made.save(step, tensors(step), {"writer": number})
                        won[number].append(step)
                    except errors.LostRaceError:
                        pass
                assert newest(made) >= step
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(n, rng.uniform(0, 0.01, 31)))
        for n in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert keep == 2 or not set(won[0]) & set(won[1])
    assert 30 in won[0] + won[1]
    assert min(len(won[0]), len(won[1])) > 0
    assert not aside(place)


def test_a_reader_continues_after_a_file_was_deleted(checkpoints, place):
    def retire_first(point):
        if point == "open.begin" and checkpoints.committed_steps() == [1, 2, 3]:
            for step in (4, 5, 6):
                checkpoints.save(step, tensors(step), RUN)

    hooks = [retire_first]
    assert newest(hooked(place, hooks)) == 6
    assert not aside(place)


def test_a_reader_skips_a_damaged_checkpoint_and_keeps_it(checkpoints, place):
    flip_bit(place, 3)
    found, _ = checkpoints.restore_newest(set_aside=False)
    assert found.step == 2
    assert checkpoints.committed_steps() == [1, 2, 3]


def test_a_commit_whose_answer_was_lost_counts(place):
    """A try that failed after the commit must not win against the next one."""

    def fail(point):
        if point == "publish.end":
            raise errors.UnavailableError("no answer")

    hooks = [fail]
    made = hooked(place, hooks)
    content = made.encode(5, tensors(5), RUN)
    with pytest.raises(errors.UnavailableError, match="step 5 cannot be"):
        made.commit(5, content)
    hooks.clear()
    made.commit(5, content)
    assert newest(made) == 5


def test_a_late_commit_counts(place):
    """An abandoned request may still be in transit."""
    content = []

    def land(point):
        if point == "publish.begin":
            place.open().publish(store.file_name(5), content)

    hooks = [land]
    made = hooked(place, hooks)
    content += made.encode(5, tensors(5), RUN)
    made.commit(5, content)
    assert newest(made) == 5


def test_an_abandoned_save_is_not_another_process(place):
    """It arrives after a newer checkpoint has replaced it."""

    def fail(point):
        if point == "publish.end":
            raise errors.UnavailableError("no answer")

    hooks = [fail]
    made = hooked(place, hooks)
    with pytest.raises(errors.UnavailableError):
        made.save(5, tensors(5), RUN)
    hooks.clear()
    made.save(6, tensors(6), RUN)
    assert made.committed_steps() == [5, 6]


def test_a_failed_removal_is_repeated_by_the_next_call(place, caplog):
    def refuse(point):
        if point == "delete.begin":
            raise errors.UnavailableError("no answer")

    hooks = [refuse]
    made = hooked(place, hooks)
    for step in range(1, 5):
        made.save(step, tensors(step), RUN)
    assert made.committed_steps() == [1, 2, 3, 4]
    assert "Postponed deleting old checkpoints: no answer" in caplog.text
    hooks.clear()
    made.tidy(4)
    assert made.committed_steps() == [3, 4]


def test_a_file_deleted_by_another_process_is_ignored(place):
    made = store.CheckpointStore(place.open(), best_by="score")
    made.commit(7, made.encode(7, tensors(7), RUN))
    other = store.CheckpointStore(place.open())
    other.restore_newest()
    for step in (14, 21):
        other.save(step, tensors(step), RUN)
    made.tidy(7)
    assert made.committed_steps() == [14, 21]


def test_a_storage_that_does_not_answer_sets_nothing_aside(place):
    def fail(point):
        if point == "move.begin":
            raise errors.UnavailableError("no answer")

    hooks = [fail]
    made = hooked(place, hooks)
    made.save(7, tensors(7), RUN)
    made.save(14, tensors(14), RUN)
    flip_bit(place, 14)
    with pytest.raises(errors.UnavailableError, match="no answer"):
        made.restore_newest()
    hooks.clear()
    assert newest(made) == 7


def test_a_damaged_checkpoint_that_cannot_be_moved_is_skipped(place, caplog):
    """Its step cannot be saved again, but every later one can."""

    def refuse(point):
        if point == "move.begin":
            raise errors.StorageError("not allowed")

    hooks = [refuse]
    made = hooked(place, hooks)
    made.save(7, tensors(7), RUN)
    made.save(14, tensors(14), RUN)
    flip_bit(place, 14)
    hooks = [refuse]
    made = hooked(place, hooks)
    assert newest(made) == 7
    assert (
        "Skipping the file, which cannot be moved: not allowed" in caplog.text
    )
    with pytest.raises(errors.UnavailableError, match="cannot be set aside"):
        made.save(14, tensors(14), RUN)
    made.save(21, tensors(21), RUN)
    assert newest(store.CheckpointStore(place.open())) == 21


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (28, errors.StorageError),
        (13, errors.StorageError),
        (30, errors.StorageError),
        (5, errors.UnavailableError),
        (116, errors.UnavailableError),
    ],
)
def test_a_failing_disk_keeps_older_checkpoints(
    tmp_path, monkeypatch, number, kind
):
    checkpoints = store.CheckpointStore(tmp_path)
    checkpoints.save(3, tensors(3), RUN)

    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        errors.StorageError, match=os.strerror(number)
    ) as caught:
        checkpoints.save(4, tensors(4), RUN)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("the checkpoint of step 4 cannot be")
    monkeypatch.undo()
    assert newest(checkpoints) == 3
    assert os.listdir(tmp_path) == [store.file_name(3)]


def test_a_disk_that_does_not_answer_sets_nothing_aside(tmp_path, monkeypatch):
    checkpoints = store.CheckpointStore(tmp_path)
    checkpoints.save(3, tensors(3), RUN)

    def fail(path, *unused):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(errors.StorageError, match="Input/output error"):
        checkpoints.restore_newest()
    monkeypatch.undo()
    assert newest(checkpoints) == 3


def test_a_disk_without_links_serves_one_writer(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one, other = (store.CheckpointStore(tmp_path) for _ in range(2))
    one.save(5, tensors(5), RUN)
    with pytest.raises(errors.LostRaceError):
        other.save(5, tensors(6), RUN)
    assert newest(one) == 5
    # A process that died between two system calls has left a claim.
    claim = tmp_path / f".{store.file_name(6)}.claim"
    claim.touch()
    with pytest.raises(errors.UnavailableError, match="is writing this file"):
        one.save(6, tensors(6), RUN)
    then = time.time() - disk.STALE_CLAIM_SECONDS - 5
    os.utime(claim, (then, then))
    one.save(6, tensors(6), RUN)
    assert newest(one) == 6
    assert len(os.listdir(tmp_path)) == 2


def test_a_link_that_a_network_disk_repeats_is_a_success(tmp_path, monkeypatch):
    link = os.link

    def twice(*names):
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", twice)
    made = store.CheckpointStore(tmp_path)
    made.save(5, tensors(5), RUN)
    assert newest(made) == 5


def test_temporary_files_of_dead_processes_are_deleted_after_an_hour(tmp_path):
    place = DiskPlace(tmp_path)
    made = store.CheckpointStore(tmp_path)
    place.put(".step-00000001.safetensors.staged-dead", b"x", age=3700)
    place.put(".step-00000001.safetensors.staged-live", b"x", age=3500)
    made.save(1, tensors(1), RUN)
    assert names(place) == {
        store.file_name(1),
        ".step-00000001.safetensors.staged-live",
    }
    assert made.committed_steps() == [1]


@pytest.mark.timeout(60)
def test_a_special_file_is_not_a_checkpoint(tmp_path):
    made = store.CheckpointStore(tmp_path)
    made.save(1, tensors(1), RUN)
    os.mkfifo(tmp_path / store.file_name(2))
    (tmp_path / store.file_name(3)).mkdir()
    assert newest(made) == 1
    with pytest.raises(errors.LostRaceError):
        made.save(2, tensors(2), RUN)
    with pytest.raises(errors.LostRaceError):
        made.save(3, tensors(3), RUN)


def test_a_full_disk_is_named_in_the_error(tmp_path, monkeypatch):
    """/dev/full gives ENOSPC to every write, as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is missing")
    checkpoints = store.CheckpointStore(tmp_path)
    open_path = pathlib.Path.open
    monkeypatch.setattr(
        pathlib.Path,
        "open",
        lambda path, mode: open_path(
            pathlib.Path("/dev/full") if mode == "wb" else path, mode
        ),
    )
    with pytest.raises(errors.StorageError, match="No space left"):
        checkpoints.save(4, tensors(4), RUN)
    assert checkpoints.committed_steps() == []


def test_the_protocol_imports_no_tensorflow():
    code = "import sys, job.checkpoint.saver, job.storage.gcs;"
    code += "import job.storage.workdir;"
    code += "sys.exit('tensorflow' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    )
