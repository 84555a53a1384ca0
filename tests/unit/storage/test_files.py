"""Small files: atomic writes, and errors with the path."""

import errno
import json
import os

import pytest

from job import errors
from job.storage import files


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.StorageError),
        (errno.EACCES, errors.StorageError),
        (errno.EIO, errors.UnavailableError),
        (errno.ESTALE, errors.UnavailableError),
    ],
)
def test_a_failed_write_keeps_and_names_the_old_file(
    tmp_path, monkeypatch, number, kind
):
    path = tmp_path / "a.json"
    files.write_json(path, [1])

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(errors.StorageError) as caught:
        files.write_json(path, [2])
    assert type(caught.value) is kind
    text = str(caught.value)
    assert text.startswith(f"{path}: {os.strerror(number)}")
    assert ("Fix: " in text) is (kind is errors.StorageError)
    assert json.loads(path.read_text()) == [1]
    assert os.listdir(tmp_path) == ["a.json"]


class ForeignError(Exception):
    """Error with the attributes of TensorFlow's errors."""

    message = "no space"


def test_other_errors_are_translated_where_they_are_named(tmp_path):
    with (
        pytest.raises(errors.StorageError, match=f"{tmp_path}: no space"),
        files.translate_errors(tmp_path, ForeignError),
    ):
        raise ForeignError
    with pytest.raises(ForeignError), files.translate_errors(tmp_path):
        raise ForeignError
    with (
        pytest.raises(FileExistsError),
        files.translate_errors(tmp_path, passing=(FileExistsError,)),
    ):
        raise FileExistsError


def test_json_has_null_in_place_of_numbers_that_are_not_finite(tmp_path):
    value = {"a": [1.5, float("nan")], "b": {"c": -float("inf")}, "d": "NaN"}
    files.write_json(tmp_path / "a.json", value)
    assert "NaN" not in (tmp_path / "a.json").read_text().replace('"NaN"', "")
    wanted = {"a": [1.5, None], "b": {"c": None}, "d": "NaN"}
    assert json.loads((tmp_path / "a.json").read_text()) == wanted
