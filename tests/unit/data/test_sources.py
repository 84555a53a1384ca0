"""Data sources: intact data is read, damaged data is refused."""

import gzip
import hashlib
import io
import os
import pathlib
import shutil
import tarfile
import urllib.request

import numpy as np
import pytest
from google.cloud import storage

from job import errors
from job.data import binary, dataset, sources, tfds_source

FILES = binary.VERSION.files


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Returns six files of random records, with labels in range."""
    rng = np.random.default_rng(0)
    files = {}
    for name in FILES:
        records = rng.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        files[name] = records.tobytes()
    return files


@pytest.fixture
def folder(tmp_path, contents):
    """Returns the files in the layout of the official archive."""
    path = tmp_path / "data" / binary.VERSION.folder
    path.mkdir(parents=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path


def write_tar(path, members) -> str:
    """Writes a .tar.gz of (TarInfo, bytes or None) and returns its sha256."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, None if content is None else io.BytesIO(content))
    path.write_bytes(gzip.compress(raw.getvalue(), compresslevel=0))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain_members(contents):
    for name, content in contents.items():
        info = tarfile.TarInfo(f"{binary.VERSION.folder}/{name}")
        info.size = len(content)
        yield info, content


def test_folder_parent_and_archive_are_equal(folder, tmp_path, contents):
    sha256 = write_tar(
        tmp_path / binary.VERSION.archive, plain_members(contents)
    )
    before = sorted(tmp_path.rglob("*"))
    loaded = [
        sources.load("auto", str(folder)),
        sources.load("auto", str(folder.parent)),
        sources.load("binary", str(folder)),
        sources.load(
            "auto",
            str(tmp_path / binary.VERSION.archive),
            archive_sha256=sha256,
        ),
        sources.load("auto", str(tmp_path), archive_sha256=sha256),
    ]
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted"
    assert {data.checksum() for data in loaded} == {loaded[0].checksum()}
    assert {data.source for data in loaded} == {"binary"}
    record = np.frombuffer(contents["data_batch_2.bin"], np.uint8)[:3073]
    image = loaded[0].train.images[10_000]
    assert loaded[0].train.labels[10_000] == record[0]
    np.testing.assert_array_equal(
        image.transpose(2, 0, 1).reshape(-1), record[1:]
    )


def refuse(match, data_dir, **kwargs):
    with pytest.raises(errors.DataError, match=match) as caught:
        sources.load("auto", str(data_dir), **kwargs)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(folder):
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    said = r"data_batch_3\.bin: the file has 30,729,999 bytes, not 30,730,000"
    refuse(said, folder)


def test_a_missing_file_is_refused(folder):
    (folder / "test_batch.bin").unlink()
    refuse(r"test_batch\.bin: the file is missing", folder)


def test_one_file_is_refused_with_its_folder(folder):
    refuse(f"Fix: use --config.data.dir={folder}", folder / "test_batch.bin")


def test_a_label_above_9_is_refused_with_its_record(folder):
    path = folder / "data_batch_1.bin"
    content = bytearray(path.read_bytes())
    content[77 * 3073] = 10
    path.write_bytes(content)
    refuse(r"record 77 of data_batch_1\.bin has label 10", folder)


def test_a_file_of_one_class_is_refused(folder):
    path = folder / "data_batch_4.bin"
    path.write_bytes(bytes(path.stat().st_size))
    refuse(r"all images of data_batch_4\.bin have label 0", folder)


def test_a_test_file_that_is_a_training_file_is_refused(folder):
    shutil.copy(folder / "data_batch_2.bin", folder / "test_batch.bin")
    refuse(r"test_batch\.bin is a copy of data_batch_2\.bin", folder)


def test_a_fifo_is_refused_immediately(folder):
    (folder / "data_batch_1.bin").unlink()
    os.mkfifo(folder / "data_batch_1.bin")
    refuse(r"data_batch_1\.bin: the file is not a regular file", folder)


def test_a_web_page_is_named_in_the_error(tmp_path):
    path = tmp_path / binary.VERSION.archive
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    refuse(r"the file is a web page.*sha256 is .*, not c4a38c50", path)
    refuse("the file is a web page", tmp_path)


def test_another_archive_is_refused_by_its_checksum(tmp_path, contents):
    write_tar(tmp_path / binary.VERSION.archive, plain_members(contents))
    refuse(r"sha256 is", tmp_path)


def test_a_truncated_archive_is_refused(tmp_path, contents):
    path = tmp_path / binary.VERSION.archive
    write_tar(path, plain_members(contents))
    path.write_bytes(path.read_bytes()[:-100_000])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    refuse(r"not a \.tar\.gz", path, archive_sha256=sha256)


def test_hostile_members_are_never_followed(tmp_path, contents):
    path = tmp_path / binary.VERSION.archive

    def info(name, kind=tarfile.REGTYPE, size=0, link=""):
        made = tarfile.TarInfo(name)
        made.type, made.size, made.linkname = kind, size, link
        return made

    outside = tmp_path / "outside"
    hostile = [(info("../outside", size=3), b"bad")]
    sha256 = write_tar(path, [*hostile, *plain_members(contents)])
    sources.load("auto", str(path), archive_sha256=sha256)
    assert not outside.exists()

    link = info("x/data_batch_1.bin", tarfile.SYMTYPE, link="/etc/passwd")
    sha256 = write_tar(path, [(link, None)])
    refuse("not a single regular file", path, archive_sha256=sha256)

    device = info("x/data_batch_1.bin", tarfile.CHRTYPE)
    sha256 = write_tar(path, [(device, None)])
    refuse("not a single regular file", path, archive_sha256=sha256)

    short = info("x/data_batch_1.bin", size=3)
    sha256 = write_tar(path, [(short, b"abc")])
    refuse("has 3 bytes", path, archive_sha256=sha256)


def test_an_unknown_folder_is_refused_with_the_known_ones(tmp_path):
    refuse(
        "cifar-10-batches-bin or .*, or cifar-10-batches-py or .*, or the"
        " cifar10 folder of tensorflow-datasets",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("source", "folder"), [("auto", ""), ("tfds", ""), ("tfds", "new/folder")]
)
def test_no_network_and_no_data_names_three_fixes(
    source, folder, monkeypatch, tmp_path
):
    monkeypatch.setattr(tfds_source, "HOST", "host.invalid")
    monkeypatch.setattr(tfds_source, "NETWORK_SECONDS", 1.0)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        errors.DataError, match=r"does not answer.*\(1\).*\(2\).*\(3\)"
    ) as caught:
        sources.load(source, folder)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entries", "downloads"),
    [
        ([], True),
        ([".snapshot", "downloads", "cifar10"], True),
        (["photo.png"], False),
        (None, True),
    ],
)
def test_a_download_needs_an_empty_or_absent_folder(
    entries, downloads, monkeypatch, tmp_path
):
    folder = tmp_path / "data"
    if entries is not None:
        folder.mkdir()
        for name in entries:
            (folder / name).mkdir()
    read: list[pathlib.Path] = []
    monkeypatch.setattr(
        tfds_source, "read", lambda path, **unused: read.append(path)
    )
    if downloads:
        sources.load("auto", str(folder), download=True)
        assert read == [folder]
    else:
        with pytest.raises(errors.DataError, match="was not found"):
            sources.load("auto", str(folder), download=True)
    # A run never downloads to a folder that --config.data.dir names.
    with pytest.raises(errors.DataError):
        sources.load("auto", str(folder))


def test_a_copy_is_not_downloaded_again(folder, contents):
    loaded = sources.load("auto", str(folder), download=True)
    assert loaded.source == "binary"


def test_the_held_out_slice_is_fixed_and_disjoint(split):
    complete = dataset.Dataset(split, split, "binary")
    held = dataset.hold_out(complete, 0.1)
    again = dataset.hold_out(complete, 0.1)
    assert (len(held.train), len(held.test)) == (90, 10)
    np.testing.assert_array_equal(held.test.images, again.test.images)
    rows = {image.tobytes() for image in held.train.images}
    rows |= {image.tobytes() for image in held.test.images}
    assert len(rows) == 100
    assert dataset.hold_out(complete, 0.0) is complete


def test_folds_hold_out_every_image_once(split):
    complete = dataset.Dataset(split, split, "binary")
    folds = [dataset.hold_out(complete, 0.1, fold) for fold in range(10)]
    assert {len(fold.train) for fold in folds} == {90}
    held = [image.tobytes() for fold in folds for image in fold.test.images]
    assert len(held) == len(set(held)) == 100


def test_tfds_has_the_same_bytes_for_the_same_ids(
    cifar10_dir, cifar10_tfds_dir
):
    by_binary = sources.load("auto", str(cifar10_dir))
    by_tfds = sources.load("auto", str(cifar10_tfds_dir))
    assert (by_binary.source, by_tfds.source) == ("binary", "tfds")
    for one, other in (
        (by_binary.train, by_tfds.train),
        (by_binary.test, by_tfds.test),
    ):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert by_binary.checksum() == by_tfds.checksum()
    inner = cifar10_tfds_dir / "cifar10"
    assert sources.load("tfds", str(inner)).checksum() == by_tfds.checksum()


def test_an_archive_in_a_bucket_is_read(
    tmp_path, contents, folder, fake_gcs, monkeypatch
):
    sha256 = write_tar(tmp_path / "archive", plain_members(contents))
    name = binary.VERSION.archive
    bucket = storage.Client(project="none").bucket("bucket")
    blob = bucket.blob(f"a/{name}")
    blob.upload_from_filename(str(tmp_path / "archive"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "data"))
    wanted = sources.load("auto", str(folder)).checksum()
    for url in (f"gs://bucket/a/{name}", "gs://bucket/a/"):
        data = sources.load("auto", url, archive_sha256=sha256)
        assert data.checksum() == wanted
        assert list((tmp_path / "data").iterdir()) == [folder], "left behind"
    refuse(f"{url}: the sha256 is {sha256}, not c4a38c50", url)
    refuse("gs://bucket/none/cifar-10-binary", "gs://bucket/none")
    refuse("gs://nowhere/cifar-10-binary", "gs://nowhere")
    with pytest.raises(errors.DataError, match="source=auto"):
        sources.load("tfds", url)
