"""Locations of a run's files, and their copy in a bucket."""

import ast
import pathlib

import pytest

from job import errors
from job.storage import disk, gcs, workdir
from tests.support.gcs_server import Fault
from tests.support.jobs import ROOT

# Names of all files and folders of a workdir.
NAMES = {
    value
    for name, value in vars(workdir).items()
    if name.isupper() and isinstance(value, str)
}


@pytest.fixture
def opened(bucket):
    with workdir.open_workdir(bucket.url) as opened:
        yield opened


def write(opened, name, error=None):
    """Writes a file as a run does, then raises `error` if given."""
    with opened.uploading(seconds=3600.0):
        (opened.local / name).write_bytes(b"line\n")
        if error:
            raise error


def test_a_local_workdir_is_its_own_folder(tmp_path):
    with workdir.open_workdir(str(tmp_path / "run")) as opened:
        opened.check_writable()
        assert opened.local == tmp_path / "run"
        assert isinstance(opened.checkpoints, disk.Disk)
        assert opened.file("result.json") == f"{tmp_path}/run/result.json"
        with opened.uploading(seconds=1.0):
            assert not opened.local.exists()


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "gs://b/../c"])
def test_a_name_of_neither_folder_nor_bucket_is_refused(name):
    with pytest.raises(errors.ConfigError, match="gs://BUCKET/PATH"):
        workdir.open_workdir(name).__enter__()


def test_a_later_attempt_downloads_only_the_files_it_reads(bucket, tmp_path):
    for name in (*NAMES, "../x", "a/../../x", "junk"):
        bucket.put(name, name.encode())
    with workdir.open_workdir(bucket.url) as opened:
        names = {path.name for path in opened.local.rglob("*")}
        assert names == workdir.PULLED <= NAMES
        assert (opened.local / "result.json").read_bytes() == b"result.json"
        assert isinstance(opened.checkpoints, gcs.Bucket)
        assert str(opened.checkpoints) == f"{bucket.url}/checkpoints"
        assert opened.file("result.json") == f"{bucket.url}/result.json"
    assert not opened.local.exists()


def test_changed_files_are_uploaded_and_the_result_is_last(opened, bucket):
    bucket.put("events/old.tfevents.1", b"an earlier attempt's")
    (opened.local / "events").mkdir()
    files = {
        "result.json": b"{}",
        "augmentation.png": b"png",
        "events/new.tfevents.2": b"events",
        "metrics.jsonl": b"line\n",
    }
    for name, content in files.items():
        (opened.local / name).write_bytes(content)
    (opened.local / ".result.json.123").write_bytes(b"half of it")
    with opened.uploading(seconds=3600.0):
        pass
    assert bucket.files() == files
    sent = [r for r in bucket.server.requests if r.startswith("POST")]
    assert len(sent) == 4
    assert sent[-1].endswith("result.json")
    with (opened.local / "metrics.jsonl").open("a") as file:
        file.write("another\n")
    opened.mirror.push()
    sent = [r for r in bucket.server.requests if r.startswith("POST")]
    assert len(sent) == 5
    assert bucket.files()["metrics.jsonl"] == b"line\nanother\n"


def test_a_removed_file_is_removed_from_the_bucket(bucket):
    bucket.put("starts.json", b"[]")
    with (
        workdir.open_workdir(bucket.url) as opened,
        opened.uploading(seconds=3600.0),
    ):
        (opened.local / "starts.json").unlink()
    assert bucket.files() == {}


def test_files_are_uploaded_at_intervals(opened, bucket):
    with opened.uploading(seconds=0.01):
        (opened.local / "config.json").write_bytes(b"{}")
        while "config.json" not in bucket.files():
            pass


def test_a_run_that_ends_early_uploads_its_files(opened, bucket):
    with pytest.raises(errors.PreemptedError):
        write(opened, "metrics.jsonl", errors.PreemptedError("stopped"))
    assert bucket.files() == {"metrics.jsonl": b"line\n"}


def test_a_lost_race_keeps_the_winners_files(opened, bucket):
    bucket.put("metrics.jsonl", b"the winner's\n")
    with pytest.raises(errors.LostRaceError):
        write(opened, "metrics.jsonl", errors.LostRaceError("one is ahead"))
    assert bucket.files() == {"metrics.jsonl": b"the winner's\n"}


def test_an_outage_is_reported_once_and_files_are_uploaded_later(
    opened, bucket, caplog
):
    bucket.server.faults = [Fault("POST", "403", times=5)]
    with opened.uploading(seconds=0.01):
        (opened.local / "config.json").write_bytes(b"{}")
        while bucket.server.faults[0].times:
            pass
    assert bucket.files() == {"config.json": b"{}"}
    assert caplog.text.count("Postponed a failed upload") == 1


def test_a_result_that_cannot_be_uploaded_is_an_error(opened, bucket):
    bucket.server.faults = [Fault("POST", "403", times=-1)]
    with pytest.raises(errors.StorageError, match="objectUser"):
        write(opened, "result.json")


def test_a_tilde_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    with workdir.open_workdir("~/runs/a") as opened:
        assert opened.local == pathlib.Path("/home/user/runs/a")


def spelled_names(path):
    """Yields the names of workdir files that a module spells out."""
    tree = ast.parse(path.read_text())
    texts = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)  # Docstrings may name files.
    }
    for node in ast.walk(tree):
        # A folder's name is an English word too, except in a path.
        used = [node.right] if isinstance(node, ast.BinOp) else []
        used += node.args if isinstance(node, ast.Call) else []
        for value in used:
            if isinstance(value, ast.Constant) and value.value in NAMES:
                yield value.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in texts:
                for name in NAMES:
                    if "." in name and name in node.value:
                        yield name


def test_only_one_module_spells_out_file_names(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        '"""About result.json."""\n'
        'x = workdir / "events", f"no {y} in report.html", f("export")\n'
        'z = "export" == mode'
    )
    assert sorted({*spelled_names(module)}) == [
        "events",
        "export",
        "report.html",
    ]
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "job").rglob("*.py")
        if path != ROOT / "job/storage/workdir.py"
        for name in spelled_names(path)
    }
    # A .keras archive has a config.json of its own.
    assert {
        (path, name)
        for path, name in found
        if (not path.startswith("job/diagnose/keras_")) or name != "config.json"
    } == set()
