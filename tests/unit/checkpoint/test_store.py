"""The commit protocol: what is committed stays readable, whatever happens.

Each test runs on a disk and on a bucket, where it is not about one of them.
"""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from job import errors
from job.checkpoint import manifest, store
from job.storage import faults
from tests.support.jobs import ROOT
from tests.support.places import DiskPlace

RUN = {"seed": 0}


def tensors(value: float) -> dict[str, np.ndarray]:
    return {
        "step": np.array(int(value), np.int64),
        "model/kernel": np.full((3, 4), value, np.float32),
        "model/empty": np.zeros((0,), np.float32),
    }


@pytest.fixture
def checkpoints(place):
    """Three checkpoints, of steps 1, 2 and 3."""
    made = store.CheckpointStore(place.open(), keep=3)
    for step in (1, 2, 3):
        made.save(step, tensors(step), RUN)
    return made


def newest(checkpoints):
    found, content = checkpoints.restore_newest()
    assert content["model/kernel"][0, 0] == found.step
    return found.step


def manifest_name(step):
    return f"step-{step:08d}/{manifest.NAME}"


def data_name(place, step):
    (name,) = (
        n for n in place.files() if n.startswith(f"step-{step:08d}/tensors-")
    )
    return name


def test_what_is_saved_is_read_back(checkpoints):
    found, content = checkpoints.restore_newest()
    assert (found.step, found.run) == (3, RUN)
    wanted = tensors(3)
    assert content.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(content[name], array)
        assert content[name].dtype == array.dtype
        assert content[name].shape == array.shape


def test_both_places_hold_the_same_files(tmp_path, bucket):
    kept = []
    for place in (DiskPlace(tmp_path), bucket):
        made = store.CheckpointStore(place.open(), process="ab12cd34ef56")
        made.save(7, tensors(7), RUN)
        kept.append(place.files())
    assert kept[0] == kept[1]
    assert len(kept[0]) == 2


def test_tensors_are_spread_over_files_of_bounded_size(place):
    many = {f"t{i}": np.full(100, i, np.float32) for i in range(10)}
    made = store.CheckpointStore(place.open(), file_bytes=1000)
    saved = made.save(1, many, {})
    assert [file.size for file in saved.files] == [800] * 5
    _, content = made.restore_newest()
    for name, array in many.items():
        np.testing.assert_array_equal(content[name], array)


def test_no_directory_and_an_empty_one_are_a_clean_start(place, tmp_path):
    assert store.CheckpointStore(place.open()).restore_newest() is None
    assert store.CheckpointStore(tmp_path).restore_newest() is None


def flip_bit(place, name):
    content = bytearray(place.files()[name])
    content[len(content) // 2] ^= 1
    place.put(name, bytes(content))


def damage_data(place, change):
    name = data_name(place, 3)
    place.put(name, change(place.files()[name]))


def damage_manifest(place, change):
    place.put(manifest_name(3), change(place.files()[manifest_name(3)]))


def edit_manifest(place, **changes):
    """Forges the newest manifest, its own checksum too."""
    fields = {**json.loads(place.files()[manifest_name(3)]), **changes}
    fields["crc32c"] = manifest.fields_crc32c(fields)
    place.put(manifest_name(3), json.dumps(fields).encode())


def edit_file(place, **changes):
    (file,) = json.loads(place.files()[manifest_name(3)])["files"]
    edit_manifest(place, files=[{**file, **changes}])


DAMAGE = {
    "bit flip": lambda p: flip_bit(p, data_name(p, 3)),
    "cut short": lambda p: damage_data(p, lambda content: content[:5]),
    "zero bytes": lambda p: damage_data(p, lambda content: b""),
    "file missing": lambda p: p.remove(data_name(p, 3)),
    "manifest garbage": lambda p: damage_manifest(p, lambda m: b"\x00\xff{"),
    "manifest empty": lambda p: damage_manifest(p, lambda m: b""),
    "manifest cut short": lambda p: damage_manifest(p, lambda m: m[:200]),
    "format no number": lambda p: edit_manifest(p, format="99"),
    "older format": lambda p: edit_manifest(p, format=0),
    "wrong step": lambda p: edit_manifest(p, step=7),
    "path traversal": lambda p: edit_file(p, name="../step-00000001/x.bin"),
    "absolute path": lambda p: edit_file(p, name="/etc/passwd"),
    "size a string": lambda p: edit_file(p, size="12"),
    "name a number": lambda p: edit_file(p, name=5),
    "wrong size": lambda p: edit_file(p, size=7),
    "tensors no list": lambda p: edit_manifest(p, tensors=7),
    "one digit of the seed": lambda p: damage_manifest(
        p, lambda m: m.replace(b'"seed": 0', b'"seed": 1')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_put_aside_and_the_one_before_is_used(
    checkpoints, place, damage
):
    DAMAGE[damage](place)
    assert newest(checkpoints) == 2
    aside = [n for n in place.files() if "MANIFEST.json.quarantined-" in n]
    assert len(aside) == 1
    assert newest(checkpoints) == 2
    checkpoints.save(3, tensors(3), RUN)
    assert newest(checkpoints) == 3


def test_all_damaged_is_exit_4_with_every_cause_now_and_later(
    checkpoints, place
):
    for step in (1, 2, 3):
        flip_bit(place, data_name(place, step))
    for _ in range(2):
        with pytest.raises(errors.ResumeError) as caught:
            checkpoints.restore_newest()
        for step in (1, 2, 3):
            assert f"step-0000000{step}: " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_newer_format_is_left_alone_and_ends_the_start(checkpoints, place):
    edit_manifest(place, format=2, tensors="laid out in another way")
    before = place.files()
    with pytest.raises(errors.ResumeError, match=r"step-00000003: .*format 2"):
        checkpoints.restore_newest()
    assert place.files() == before


def test_data_without_a_manifest_is_invisible(checkpoints, place):
    content = place.files()[data_name(place, 3)]
    place.put("step-00000009/tensors-0-ab12cd34ef56.bin", content)
    assert newest(checkpoints) == 3
    assert checkpoints.committed_steps() == [1, 2, 3]


def test_only_keep_stay_and_a_live_attempt_is_left_alone(place):
    made = store.CheckpointStore(place.open(), keep=2)
    dead = "step-00000001/tensors-0-dead00dead00.bin"
    live = "step-00000002/tensors-0-11fe0011fe00.bin"
    beside = "step-00000010/tensors-0-dead00dead00.bin"
    made.save(10, tensors(10), RUN)
    place.put(dead, b"x", age=3700)
    place.put(beside, b"x", age=3700)
    place.put(live, b"x", age=3500)
    for step in range(11, 15):
        made.save(step, tensors(step), RUN)
    assert made.committed_steps() == [13, 14]
    assert {n.partition("/")[0] for n in place.files()} == {
        "step-00000002",
        "step-00000013",
        "step-00000014",
    }


def test_the_best_is_kept_too(place):
    made = store.CheckpointStore(place.open(), keep=2, best_by="accuracy")
    for step, accuracy in enumerate([0.1, 0.9, None, 0.5, 0.3, 0.2]):
        made.save(step, tensors(step), {"accuracy": accuracy})
    assert made.committed_steps() == [1, 4, 5]
    # Another start knows it from the manifests.
    made = store.CheckpointStore(place.open(), keep=2, best_by="accuracy")
    made.save(6, tensors(6), {"accuracy": 0.9})
    assert made.committed_steps() == [5, 6]
    made.save(7, tensors(7), {"accuracy": 0.1})
    made.save(8, tensors(8), {"accuracy": 0.1})
    assert made.committed_steps() == [6, 7, 8]


def test_keep_below_2_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        store.CheckpointStore(tmp_path, keep=1)


def test_a_step_is_committed_once_and_the_first_writer_stays(place):
    one, other = (store.CheckpointStore(place.open()) for _ in range(2))
    one.save(5, tensors(5), {"writer": "one"})
    with pytest.raises(errors.LostRaceError, match="step-00000005"):
        other.save(5, tensors(5), {"writer": "other"})
    found, _ = other.restore_newest()
    assert found.run == {"writer": "one"}
    assert len(place.files()) == 2


def test_who_is_behind_another_writer_ends_and_leaves_nothing(place):
    one, other = (store.CheckpointStore(place.open()) for _ in range(2))
    one.save(8, tensors(8), RUN)
    before = place.files()
    with pytest.raises(errors.LostRaceError, match="step-00000008"):
        other.save(5, tensors(5), RUN)
    assert place.files() == before


def test_who_loses_at_the_last_moment_removes_its_own_data_only(place):
    one, other = (store.CheckpointStore(place.open()) for _ in range(2))

    def overtake(point):
        if point == "manifest.begin":
            faults.hook = None
            one.save(5, tensors(5), {"writer": "one"})

    faults.hook = overtake
    try:
        with pytest.raises(errors.LostRaceError):
            other.save(5, tensors(5), {"writer": "other"})
    finally:
        faults.hook = None
    assert newest(one) == 5
    assert len(place.files()) == 2


def test_two_writers_share_the_steps_and_both_end_cleanly(place):
    """Each step has one winner; no one ever removes what another reads."""
    rng = np.random.default_rng(0)
    won = {0: [], 1: []}
    failures = []

    def write(number, pauses):
        try:
            for step in range(1, 31):
                time.sleep(pauses[step])
                made = store.CheckpointStore(place.open(), keep=2)
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
    assert not set(won[0]) & set(won[1])
    assert 30 in won[0] + won[1]
    assert min(len(won[0]), len(won[1])) > 0
    assert not [name for name in place.files() if "quarantined" in name]


def test_a_reader_goes_on_where_the_owner_retires_what_it_reads(
    checkpoints, place
):
    storage = place.open()
    read = storage.read

    def retire_first(*names):
        if "tensors" in names[0] and checkpoints.committed_steps() == [1, 2, 3]:
            for step in (4, 5, 6):
                checkpoints.save(step, tensors(step), RUN)
        return read(*names)

    storage.read = retire_first
    assert newest(store.CheckpointStore(storage)) == 6
    assert not [name for name in place.files() if "quarantined" in name]


def test_a_guest_passes_over_a_damaged_one_and_leaves_it(checkpoints, place):
    flip_bit(place, data_name(place, 3))
    found, _ = checkpoints.restore_newest(quarantine=False)
    assert found.step == 2
    assert checkpoints.committed_steps() == [1, 2, 3]


def test_a_commit_that_was_not_heard_of_counts(place):
    """Its try failed behind the commit; the next try must not lose to it."""
    made = store.CheckpointStore(place.open())
    packed = made.pack(5, tensors(5), RUN)

    def fail(point):
        if point == "manifest.published":
            raise errors.UnavailableError("no answer")

    faults.hook = fail
    try:
        with pytest.raises(errors.UnavailableError, match="step 5 cannot be"):
            made.commit(packed)
    finally:
        faults.hook = None
    made.commit(packed)
    assert newest(made) == 5
    # Nor may a later save take its files for litter.
    made.save(6, tensors(6), RUN)
    flip_bit(place, data_name(place, 6))
    assert newest(made) == 5


def test_a_commit_that_lands_late_counts(place):
    """A request that was given up may still be on its way."""
    made = store.CheckpointStore(place.open())
    packed = made.pack(5, tensors(5), RUN)

    def land(point):
        if point == "manifest.begin":
            faults.hook = None
            place.open().publish(manifest_name(5), packed.made.to_json())

    faults.hook = land
    try:
        made.commit(packed)
    finally:
        faults.hook = None
    assert newest(made) == 5


def test_files_of_a_failed_save_are_deleted_by_the_next_one(place):
    made = store.CheckpointStore(place.open())

    def fail(point):
        if point == "data.all":
            raise errors.UnavailableError("no answer")

    faults.hook = fail
    try:
        with pytest.raises(errors.UnavailableError):
            made.save(5, tensors(5), RUN)
    finally:
        faults.hook = None
    assert len(place.files()) == 1
    made.save(6, tensors(6), RUN)
    assert {n.partition("/")[0] for n in place.files()} == {"step-00000006"}


def test_an_aborted_collection_is_completed_by_the_next_call(place):
    made = store.CheckpointStore(place.open(), keep=2)
    for step in (1, 2):
        made.save(step, tensors(step), RUN)
    made.commit(made.pack(3, tensors(3), RUN))
    made.tidy(3, lambda: True)
    assert made.committed_steps() == [1, 2, 3]
    # Nor is what lies between a manifest and its data left for an hour.
    asked = iter([False, True])
    made.tidy(3, lambda: next(asked))
    assert made.committed_steps() == [2, 3]
    assert [name for name in place.files() if name.startswith("step-00000001")]
    made.tidy(3)
    names = [name.partition("/")[0] for name in place.files()]
    assert {*names} == {"step-00000002", "step-00000003"}


@pytest.mark.parametrize("best_by", ["", "score"])
def test_what_another_process_has_retired_is_no_trouble(place, best_by):
    made = store.CheckpointStore(place.open(), best_by=best_by)
    made.commit(made.pack(7, tensors(7), RUN))
    other = store.CheckpointStore(place.open())
    for step in (14, 21):
        other.save(step, tensors(step), RUN)
    made.tidy(7)
    assert made.committed_steps() == [14, 21]


def test_a_damaged_one_that_cannot_be_put_aside_is_said(place, monkeypatch):
    """Passed over, it would look like another process that is ahead."""
    storage = place.open()
    made = store.CheckpointStore(storage)
    made.save(7, tensors(7), RUN)
    made.save(14, tensors(14), RUN)
    flip_bit(place, data_name(place, 14))

    def move(name, to):
        raise errors.UnavailableError("no answer")

    monkeypatch.setattr(storage, "move", move)
    with pytest.raises(errors.UnavailableError, match="14 is damaged and can"):
        made.restore_newest()
    monkeypatch.undo()
    assert newest(made) == 7


def test_files_that_grew_old_before_their_commit_are_written_again(place):
    """Another process may have considered them abandoned and deleted them."""
    made = store.CheckpointStore(place.open())
    packed = made.pack(5, tensors(5), RUN)

    def grow_old(point):
        if point == "data.all":
            packed.begun -= store.FRESH_SECONDS

    faults.hook = grow_old
    try:
        with pytest.raises(errors.UnavailableError, match="too long"):
            made.commit(packed)
    finally:
        faults.hook = None
    (name,) = place.files()
    place.remove(name)
    made.commit(packed)
    assert newest(made) == 5
    assert data_name(place, 5) != name


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
def test_a_disk_that_fails_leaves_older_checkpoints_alone(
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
    assert checkpoints.committed_steps() == [3]


def test_a_disk_that_does_not_answer_puts_nothing_aside(tmp_path, monkeypatch):
    checkpoints = store.CheckpointStore(tmp_path)
    checkpoints.save(3, tensors(3), RUN)

    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
    with pytest.raises(errors.StorageError, match="Input/output error"):
        checkpoints.restore_newest()
    monkeypatch.undo()
    assert newest(checkpoints) == 3


def test_a_disk_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one, other = (store.CheckpointStore(tmp_path) for _ in range(2))
    one.save(5, tensors(5), RUN)
    with pytest.raises(errors.LostRaceError):
        other.save(5, tensors(6), RUN)
    assert newest(one) == 5


def test_a_full_disk_says_so(tmp_path):
    """A real one: /dev/full gives ENOSPC to every write."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    checkpoints = store.CheckpointStore(tmp_path)
    packed = checkpoints.pack(4, tensors(4), RUN)
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / packed.made.files[0].name).symlink_to("/dev/full")
    with pytest.raises(errors.StorageError, match="No space left"):
        checkpoints.commit(packed)
    assert checkpoints.committed_steps() == []


def test_a_fault_that_names_no_point_is_refused():
    faults.kill_at("manifest.published:3=SIGKILL")
    for spec in ("manifest.publish=SIGKILL", "save.begin", "save.end=SIGFOO"):
        with pytest.raises(ValueError, match="POINT=SIGNAL"):
            faults.kill_at(spec)


def test_the_protocol_imports_no_tensorflow():
    code = "import sys, job.checkpoint.saver, job.storage.gcs;"
    code += "import job.storage.workdir;"
    code += "sys.exit('tensorflow' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    )


_SAVE_FOREVER = """
import itertools, pathlib, sys
import numpy as np
from job.checkpoint import store
made = store.CheckpointStore(pathlib.Path(sys.argv[1]), keep=2)
first = max(made.committed_steps(), default=0) + 1
for step in itertools.count(first):
    made.save(step, {"model/kernel": np.full((300, 400), step, np.float32)}, {})
    print(step, flush=True)
"""


def test_killed_at_40_random_moments_of_saving_nothing_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        told = max([told, *map(int, rest)])
        found, content = store.CheckpointStore(tmp_path).restore_newest()
        assert found.step >= told
        assert (content["model/kernel"] == found.step).all()
        told = found.step
    assert not list(tmp_path.rglob("*quarantined*"))
