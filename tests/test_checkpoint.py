"""The commit protocol: what is committed stays readable, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from job import errors
from job.checkpoint import manifest, store

from .conftest import ROOT

RUN = {"seed": 0}


def tensors(value: float) -> dict[str, np.ndarray]:
    return {
        "step": np.array(int(value), np.int64),
        "model/kernel": np.full((3, 4), value, np.float32),
        "model/empty": np.zeros((0,), np.float32),
    }


@pytest.fixture
def checkpoints(tmp_path):
    """Three checkpoints, of steps 1, 2 and 3."""
    made = store.CheckpointStore(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        made.save(step, tensors(step), RUN)
    return made


def newest(checkpoints):
    found, content = checkpoints.restore_newest()
    assert content["model/kernel"][0, 0] == found.step
    return found.step


def data_file(checkpoints, step):
    (path,) = checkpoints._directory(step).glob("tensors-*.bin")
    return path


def test_what_is_saved_is_read_back(checkpoints):
    found, content = checkpoints.restore_newest()
    assert (found.step, found.run) == (3, RUN)
    wanted = tensors(3)
    assert content.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(content[name], array)
        assert content[name].dtype == array.dtype
        assert content[name].shape == array.shape


def test_tensors_are_spread_over_files_of_bounded_size():
    many = {f"t{i}": np.full(100, i, np.float32) for i in range(10)}
    files, entries, contents = manifest.pack(many, "ab12cd", 1000)
    assert len(files) == 5
    made = manifest.Manifest(1, "ab12cd", files, entries, {})
    read = manifest.from_json(made.to_json())
    assert read == made
    unpacked = manifest.unpack(read, contents)
    for name, array in many.items():
        np.testing.assert_array_equal(unpacked[name], array)


def test_no_directory_and_an_empty_one_are_a_clean_start(tmp_path):
    assert store.CheckpointStore(tmp_path / "none").restore_newest() is None
    assert store.CheckpointStore(tmp_path).restore_newest() is None


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(checkpoints, **changes):
    """Forges the newest manifest, its own checksum too."""
    path = checkpoints._directory(3) / manifest.NAME
    fields = {**json.loads(path.read_text()), **changes}
    fields["crc32c"] = manifest._own_crc32c(fields)
    path.write_text(json.dumps(fields))


def edit_file(checkpoints, **changes):
    found, _ = checkpoints.restore_newest()
    file = {**manifest.dataclasses.asdict(found.files[0]), **changes}
    edit_manifest(checkpoints, files=[file])


def edit_digit(checkpoints):
    path = checkpoints._directory(3) / manifest.NAME
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


DAMAGE = {
    "bit flip": lambda c: flip_bit(data_file(c, 3)),
    "cut short": lambda c: os.truncate(data_file(c, 3), 5),
    "zero bytes": lambda c: os.truncate(data_file(c, 3), 0),
    "file missing": lambda c: data_file(c, 3).unlink(),
    "manifest garbage": lambda c: (c._directory(3) / manifest.NAME).write_bytes(
        b"\x00\xff{"
    ),
    "manifest empty": lambda c: os.truncate(c._directory(3) / manifest.NAME, 0),
    "manifest cut short": lambda c: os.truncate(
        c._directory(3) / manifest.NAME, 200
    ),
    "future format": lambda c: edit_manifest(c, format=99),
    "wrong step": lambda c: edit_manifest(c, step=7),
    "path traversal": lambda c: edit_file(c, name="../step-00000001/x.bin"),
    "absolute path": lambda c: edit_file(c, name="/etc/passwd"),
    "size a string": lambda c: edit_file(c, size="12"),
    "name a number": lambda c: edit_file(c, name=5),
    "wrong size": lambda c: edit_file(c, size=7),
    "tensors no list": lambda c: edit_manifest(c, tensors=7),
    "one digit of the seed": edit_digit,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_put_aside_and_the_one_before_is_used(
    checkpoints, damage
):
    DAMAGE[damage](checkpoints)
    assert newest(checkpoints) == 2
    aside = list(checkpoints._directory(3).glob("MANIFEST.json.quarantined-*"))
    assert len(aside) == 1
    assert newest(checkpoints) == 2
    checkpoints.save(3, tensors(3), RUN)
    assert newest(checkpoints) == 3


def test_all_damaged_is_exit_4_with_every_cause_now_and_later(checkpoints):
    for step in (1, 2, 3):
        flip_bit(data_file(checkpoints, step))
    for _ in range(2):
        with pytest.raises(errors.ResumeError) as caught:
            checkpoints.restore_newest()
        for step in (1, 2, 3):
            assert f"step-0000000{step}: " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_data_without_a_manifest_is_invisible(checkpoints):
    shutil.copytree(checkpoints._directory(3), checkpoints._directory(9))
    (checkpoints._directory(9) / manifest.NAME).unlink()
    assert newest(checkpoints) == 3
    assert checkpoints.committed_steps() == [1, 2, 3]


def test_only_keep_stay_and_a_live_attempt_is_left_alone(tmp_path):
    made = store.CheckpointStore(tmp_path, keep=2)
    for name, age in (("step-00000001", 7200), ("step-00000002", 0)):
        (tmp_path / name).mkdir()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    for step in range(10, 15):
        made.save(step, tensors(step), RUN)
    assert made.committed_steps() == [13, 14]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["step-00000002", "step-00000013", "step-00000014"]


def test_keep_below_2_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        store.CheckpointStore(tmp_path, keep=1)


def test_a_step_is_committed_once_and_the_first_writer_stays(tmp_path):
    one, other = (store.CheckpointStore(tmp_path) for _ in range(2))
    one.save(5, tensors(5), {"writer": "one"})
    with pytest.raises(errors.PreemptedError, match="step-00000005"):
        other.save(5, tensors(5), {"writer": "other"})
    found, _ = other.restore_newest()
    assert found.run == {"writer": "one"}


def test_a_full_disk_leaves_older_checkpoints_alone(checkpoints, monkeypatch):
    def fail(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store, "_write", fail)
    with pytest.raises(errors.StorageError, match=r"step 4 .*No space left"):
        checkpoints.save(4, tensors(4), RUN)
    assert newest(checkpoints) == 3


def test_a_disk_that_does_not_answer_puts_nothing_aside(
    checkpoints, monkeypatch
):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(store.pathlib.Path, "read_bytes", fail)
    with pytest.raises(errors.StorageError, match="step-00000003 cannot be"):
        checkpoints.restore_newest()
    monkeypatch.undo()
    assert newest(checkpoints) == 3


def test_a_guest_passes_over_a_damaged_one_and_leaves_it(checkpoints):
    flip_bit(data_file(checkpoints, 3))
    found, _ = checkpoints.restore_newest(quarantine=False)
    assert found.step == 2
    assert checkpoints.committed_steps() == [1, 2, 3]


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
