"""Damaged and hostile files, each refused in one line that names it."""

import json
import os
import pathlib

import pytest

from job import errors
from job.storage import reader
from job.storage.reader import Number

KIND = {"step": Number(0, whole=True), "rates": [Number(0.0)], "name?": str}
GOOD = {"step": 3, "rates": [0.5, 1], "other": {"a": None}}


def test_an_intact_file_is_returned_and_an_absent_one_is_none(tmp_path):
    path = tmp_path / "a.json"
    assert reader.read_json(path, KIND) is None
    assert reader.read_json(path / "below", KIND) is None
    path.write_text(json.dumps(GOOD))
    assert reader.read_json(path, KIND) == GOOD
    assert reader.read_json(path / "below", KIND) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 50 + b"]" * 50, "nested too deeply"),
        (b"[1]", "the value is [1], not an object"),
        (b'{"step": 3}', "rates is missing"),
        (b'{"step": true, "rates": []}', "step is True, not an int"),
        (b'{"step": 1.0, "rates": []}', "step is 1.0, not an integer"),
        (b'{"step": -1, "rates": []}', "step is -1, not an integer fr"),
        (b'{"step": 1, "rates": {}}', "rates is {}, not a list"),
        (b'{"step": 1, "rates": [1, "x"]}', "rates[1] is 'x', not a n"),
        (b'{"step": 1, "rates": [1e400]}', "rates is inf, not a finite"),
        (b'{"step": 1, "rates": [], "x": NaN}', "x is nan, not a fin"),
        (b'{"step": 1, "rates": [], "x": 1' + b"0" * 99 + b"}", "64 bits"),
        (b'{"step": 1, "rates": [], "name": 1}', "name is 1, not text"),
        (b'{"step": 1, "rates": [], "x": "\\ud800"}', "valid Unicode"),
        (b'{"step": 1, "rates": [], "\\ud800": 1}', "valid Unicode"),
    ],
)
def test_other_content_is_refused_with_the_file_and_the_field(content, said):
    with pytest.raises(reader.DamagedError) as caught:
        reader.parse_json(content, KIND, "a.json")
    assert str(caught.value).startswith("a.json")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()


def make_fifo(path):
    os.mkfifo(path)


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_fifo, "is not a regular file"),
        (make_sparse, "has more than 100 bytes"),
        (pathlib.Path.mkdir, "Is a directory. Fix: "),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.write_bytes(bytes(101)), "more than 100 bytes"),
    ],
)
def test_a_special_file_is_refused_immediately(tmp_path, make, said):
    path = tmp_path / "a"
    make(path)
    with pytest.raises(errors.DataError) as caught:
        reader.read_bytes(path, max_bytes=100)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    with pytest.raises(reader.DamagedError):
        reader.read_bytes(tmp_path / name, max_bytes=100)
