"""Every named point of a save x disk and bucket x SIGKILL and SIGTERM.

The children are forked, from a process that has no TensorFlow and no threads:
so the matrix is a program of its own, `kill_matrix`.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from job.storage import faults
from tests.support import kill_matrix
from tests.support.jobs import ROOT

KILLS = 40


@pytest.fixture(
    params=[
        "disk",
        "strict bucket",
        pytest.param("fake-gcs-server", marks=pytest.mark.faults),
    ]
)
def matrix(request, tmp_path, monkeypatch):
    """Where to kill, and whether that is a disk."""
    if request.param == "disk":
        # A process that dies loses no page: a disk of memory will do, and
        # thousands of flushes take no time.
        memory = pathlib.Path("/dev/shm")
        usable = os.access(memory, os.W_OK)
        with tempfile.TemporaryDirectory(
            dir=memory if usable else tmp_path
        ) as folder:
            yield folder, True
    elif request.param == "strict bucket":
        command = [sys.executable, "-m", "tests.support.gcs_server", "bucket"]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as server:
            url = server.stdout.readline().strip()
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
            yield "gs://bucket/matrix", False
            server.kill()
    else:
        request.getfixturevalue("fake_gcs")
        yield "gs://bucket/matrix", False


def test_killed_at_every_point_of_a_save_nothing_is_lost(matrix):
    place, is_disk = matrix
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_matrix", place, str(KILLS)],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *outcomes, last = [json.loads(line) for line in done.stdout.splitlines()]
    bad = [outcome for outcome in outcomes if not outcome["good"]]
    assert not bad
    hit = {(o["case"]["point"], o["case"]["signal"]) for o in outcomes}
    skipped = kill_matrix.ONLY_BUCKET if is_disk else kill_matrix.ONLY_DISK
    assert hit == {
        (point, number.name)
        for point in set(faults.POINTS) - skipped
        for number in kill_matrix.SIGNALS
    }
    assert last == {"random": {"kills": KILLS, "lost": 0}}
