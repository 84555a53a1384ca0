"""Tests that CIFAR-10's Python version has equal images and runs no code."""

import hashlib
import os
import pickle
import pickletools
import sys
import tarfile

import numpy as np
import pytest

from job import errors
from job.data import binary, python_version, sources
from tests.support import python2_pickle
from tests.support.jobs import run_job

VERSION = python_version.VERSION
SIZE = VERSION.least_bytes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns the same random images in the binary and the Python version."""
    root = tmp_path_factory.mktemp("versions")
    by_name = {}
    for version in (binary.VERSION, VERSION):
        by_name[version.folder] = root / version.folder / version.folder
        by_name[version.folder].mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, other in zip(binary.VERSION.files, VERSION.files, strict=True):
        rows = rng.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        records = rows.tobytes()
        (by_name[binary.VERSION.folder] / name).write_bytes(records)
        (by_name[VERSION.folder] / other).write_bytes(
            python2_pickle.batch(records, other)
        )
    return by_name[binary.VERSION.folder], by_name[VERSION.folder]


def test_the_files_are_written_like_the_original(folders):
    content = (folders[1] / "data_batch_1").read_bytes()
    found = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    # Python 2 has no bytes, and its strings are those of BINSTRING.
    assert {"BINSTRING", "SHORT_BINSTRING", "GLOBAL", "REDUCE"} <= found
    assert not {name for name in found if "BYTES" in name or "UNI" in name}
    assert content.startswith(b"\x80\x02}q")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    loaded = pickle.loads(content, encoding="bytes")
    assert loaded[b"data"].shape == (10_000, 3072)


def test_images_equal_those_of_the_binary_version(folders, tmp_path):
    path = tmp_path / VERSION.archive
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        tar.add(folders[1], VERSION.folder)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = sources.load("auto", str(folders[0]))
    for found in (
        sources.load("auto", str(folders[1])),
        sources.load("auto", str(folders[1].parent)),
        sources.load("auto", str(tmp_path), archive_sha256=sha256),
    ):
        assert found.source == "python"
        assert found.checksum() == expected.checksum()
        np.testing.assert_array_equal(found.test.images, expected.test.images)
        np.testing.assert_array_equal(found.test.labels, expected.test.labels)
    with pytest.raises(errors.DataError, match=r"sha256 is .*, not 6d958be0"):
        sources.load("python", str(path))


def test_a_named_source_is_not_replaced(folders):
    with pytest.raises(errors.DataError, match="cifar-10-batches-py or"):
        sources.load("python", str(folders[0]))
    with pytest.raises(errors.DataError, match="cifar-10-batches-bin or"):
        sources.load("binary", str(folders[1]))
    with pytest.raises(errors.DataError, match=r"set --config\.data\.dir"):
        sources.load("python")


class Call:
    """Object that calls a function when `pickle` unpickles it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
)


def nested_tuples(depth: int) -> bytes:
    """Returns a key whose hash takes 2^depth operations."""
    levels = b"".join(
        b"h" + bytes([i, 104, i]) + b"\x86q" + bytes([i + 1])
        for i in range(depth)
    )
    return b"\x80\x02})q\x00" + levels + b"Ns."


def attacks(marker: str) -> dict[str, bytes]:
    """Returns pickles that would write `marker`, import, or exhaust memory."""
    shell = f"touch {marker}"
    code = f"open({marker!r}, 'w')"
    return {
        "system, protocol 0": pickle.dumps(Call(os.system, shell), 0),
        "system, protocol 2": pickle.dumps(Call(os.system, shell), 2),
        "system, protocol 4": pickle.dumps(Call(os.system, shell), 4),
        "eval": pickle.dumps(Call(eval, code), 2),
        "exec as a value": pickle.dumps({b"data": Call(exec, code)}, 2),
        "inst": f"(S{shell!r}\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS{shell!r}\no.".encode(),
        "newobj": b"\x80\x02csubprocess\nPopen\nX\x04\x00\x00\x00true\x85\x81.",
        "an import": b"\x80\x02cthis\ns\n.",
        "a dotted name": b"\x80\x02cnumpy\nndarray.tofile\n.",
        "another name of NumPy": b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02Pname\n.",
        "a changed class": b"\x80\x02cnumpy\nndarray\n"
        b"N}U\x08__init__U\x01xs\x86b.",
        "an array without contents": b"\x80\x02}U\x04data"
        + ARRAY
        + b"sU\x06labels]s.",
        "memory by an index": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "memory by a length": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "time by a hash": nested_tuples(60),
        "a list": b"\x80\x02].",
        "nothing": b"",
        "text": b"<html>not a pickle</html>",
        "cut short": b"\x80\x02}q\x00(U\x06labels",
        "labels that are no numbers": python2_pickle.dump(
            {
                b"labels": [b"x"] * 10_000,
                b"data": np.zeros((10_000, 3072), "u1"),
            }
        ),
        "too few labels": python2_pickle.dump(
            {b"labels": [1], b"data": np.zeros((10_000, 3072), "u1")}
        ),
        "another shape": python2_pickle.dump(
            {b"labels": [1] * 10_000, b"data": np.zeros((3072, 10_000), "u1")}
        ),
        "another type": python2_pickle.dump(
            {b"labels": [1] * 10_000, b"data": np.zeros((10_000, 3072), "i1")}
        ),
        "a label of 300": python2_pickle.dump(
            {b"labels": [300] * 10_000, b"data": np.zeros((10_000, 3072), "u1")}
        ),
        "a label of 10": python2_pickle.dump(
            {b"labels": [10] * 10_000, b"data": np.zeros((10_000, 3072), "u1")}
        ),
    }


@pytest.fixture
def attacked(folders, tmp_path):
    """Returns a folder whose first file the test writes."""
    for name in VERSION.files[1:]:
        (tmp_path / name).symlink_to(folders[1] / name)
    return tmp_path


@pytest.mark.parametrize("kind", attacks(""))
def test_a_hostile_or_damaged_file_is_refused(kind, attacked, monkeypatch):
    marker = attacked / "marker"
    content = attacks(str(marker))[kind]
    # Padding after the end passes the check of the size.
    (attacked / "data_batch_1").write_bytes(content.ljust(SIZE, b"\0"))
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with pytest.raises(errors.DataError, match="data_batch_1") as caught:
        sources.load("auto", str(attacked))
    assert len(str(caught.value).splitlines()) == 1
    assert not marker.exists()
    assert "this" not in sys.modules


def test_the_attacks_are_real(tmp_path, monkeypatch):
    """Python's own unpickler executes them."""
    monkeypatch.chdir(tmp_path)
    for kind, content in attacks("marker").items():
        if kind.startswith(("system", "eval", "exec", "inst", "obj")):
            pickle.loads(content)
            assert (tmp_path / "marker").exists(), kind
            (tmp_path / "marker").unlink()


def test_the_job_ends_with_3_in_one_line(attacked):
    marker = attacked / "marker"
    content = attacks(str(marker))["system, protocol 2"]
    (attacked / "data_batch_1").write_bytes(content.ljust(SIZE, b"\0"))
    done = run_job(
        *("--mode=fetch", "--config=stem32"),
        f"--config.data.dir={attacked}",
    )
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"data error: {attacked}: data_batch_1 is not a batch"
    )
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_a_file_of_the_wrong_size_is_refused(attacked):
    (attacked / "data_batch_1").write_bytes(b"\x80\x02}.")
    with pytest.raises(errors.DataError, match="has 4 bytes, not 30,720,000"):
        sources.load("auto", str(attacked))
    with (attacked / "data_batch_1").open("wb") as file:
        file.truncate(2**40)  # Reading this sparse file would fill the memory.
    with pytest.raises(errors.DataError, match="data_batch_1: the file has"):
        sources.load("auto", str(attacked))
