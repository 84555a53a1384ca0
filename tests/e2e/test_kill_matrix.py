"""Tests of SIGKILL and SIGTERM at every storage call, on disk and in a bucket.

The children are forked from a process without TensorFlow and threads. The
matrix is therefore a separate program, `kill_matrix`.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from tests.support import kill_matrix
from tests.support.jobs import ROOT

KILLS = 40


@pytest.fixture(
    params=[
        "disk",
        pytest.param("strict bucket", marks=pytest.mark.faults),
        pytest.param("fake-gcs-server", marks=pytest.mark.faults),
    ]
)
def matrix(request, tmp_path, monkeypatch):
    """Arguments of `kill_matrix`, and the scenarios that it runs."""
    if request.param == "disk":
        # A killed process loses no page of the cache, so a RAM disk is enough.
        # Thousands of flushes take no time there.
        memory = pathlib.Path("/dev/shm")
        usable = os.access(memory, os.W_OK)
        with tempfile.TemporaryDirectory(
            dir=memory if usable else tmp_path
        ) as folder:
            yield [folder, str(KILLS)], kill_matrix.DISK_SCENARIOS
    elif request.param == "strict bucket":
        command = [sys.executable, "-m", "tests.support.gcs_server", "bucket"]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as server:
            url = server.stdout.readline().strip()
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
            # Small files are uploaded like large ones, with more requests.
            args = ["gs://bucket/matrix", str(KILLS), "resumable"]
            yield args, kill_matrix.BUCKET_SCENARIOS
            server.kill()
    else:
        request.getfixturevalue("fake_gcs")
        args = ["gs://bucket/matrix", str(KILLS)]
        yield args, kill_matrix.BUCKET_SCENARIOS


def test_killed_at_every_storage_call_nothing_is_lost(matrix):
    args, scenarios = matrix
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_matrix", *args],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *outcomes, last = [json.loads(line) for line in done.stdout.splitlines()]
    bad = [outcome for outcome in outcomes if not outcome["good"]]
    assert not bad
    # A save makes at least three calls, which list, upload and remove files.
    # Each call has a beginning and an end.
    least = 3 * 2 * kill_matrix.STEPS - 4
    for scenario in scenarios:
        cases = [o for o in outcomes if o["case"]["scenario"] == scenario]
        assert len(cases) >= least * len(kill_matrix.SIGNALS)
    assert last == {"random": {"kills": KILLS, "lost": 0}}
