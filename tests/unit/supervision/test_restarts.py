"""Tests of the count of attempts without progress."""

import pytest

from job import errors
from job.storage.workdir import STARTS
from job.supervision import restarts


def start(workdir, step, end=KeyboardInterrupt):
    """Runs an attempt that starts at `step` and ends with `end`."""
    with restarts.counted(workdir, step):
        if end:
            raise end("so")


def begin(workdir, step, times, end=KeyboardInterrupt):
    for _ in range(times):
        with pytest.raises(end):
            start(workdir, step, end)


@pytest.mark.parametrize(
    "end", [KeyboardInterrupt, errors.PreemptedError, errors.PeerLostError]
)
def test_eleventh_attempt_at_a_step_is_refused(tmp_path, end):
    begin(tmp_path, 5, 10, end)
    for _ in range(2):  # The count does not change.
        with pytest.raises(errors.ResumeError) as refused:
            start(tmp_path, 5, None)
        assert "10 attempts in a row made no progress beyond step 5" in str(
            refused.value
        )
        assert "10 x " in str(refused.value)
        assert str(tmp_path / STARTS) in str(refused.value)


def test_progress_resets_the_count(tmp_path):
    begin(tmp_path, -1, 10)
    begin(tmp_path, 0, 10)
    begin(tmp_path, 7, 10)
    with pytest.raises(errors.ResumeError):
        start(tmp_path, 7, None)


def test_a_damaged_checkpoint_is_not_progress(tmp_path):
    begin(tmp_path, 10, 9)
    begin(tmp_path, 5, 1)
    with pytest.raises(errors.ResumeError):
        start(tmp_path, 5, None)
    start(tmp_path, 6, None)


def test_the_end_of_the_run_resets_the_count(tmp_path):
    begin(tmp_path, 20, 9)
    start(tmp_path, 20, None)
    assert not list(tmp_path.iterdir())
    begin(tmp_path, 20, 10)


def test_an_error_with_a_fix_does_not_count(tmp_path):
    workdir = tmp_path / "run"
    begin(workdir, -1, 20, errors.DeviceError)
    assert not list(workdir.iterdir())
    begin(workdir, -1, 9)
    begin(workdir, -1, 20, errors.DataError)
    begin(workdir, -1, 1)
    with pytest.raises(errors.ResumeError):
        start(workdir, -1, None)


def test_the_message_of_a_run_in_a_bucket_names_its_list(tmp_path):
    begin(tmp_path, 5, 10)
    there = "gs://bucket/run/starts.json"
    with (
        pytest.raises(errors.ResumeError, match=f"delete {there}"),
        restarts.counted(tmp_path, 5, there),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"step": "x"}]', "\0"])
def test_damaged_file_is_ignored(tmp_path, text):
    (tmp_path / STARTS).write_text(text)
    start(tmp_path, 5, None)
