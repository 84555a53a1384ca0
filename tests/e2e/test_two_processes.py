"""Two processes on one workdir: one owns it, the other changes no file.

`python -m tests.support.two_processes 20 DIR gs://BUCKET/PATH` repeats the
trials 20 times. test_faults_storage tests the real job.
"""

import collections
import json
import subprocess
import sys

import pytest

from tests.e2e.test_faults_storage import strict as strict
from tests.support.jobs import ROOT

pytestmark = [pytest.mark.faults]

REPEATS = 2


def test_one_of_two_processes_owns_the_workdir(strict, tmp_path):
    module = "tests.support.two_processes"
    done = subprocess.run(
        [sys.executable, "-m", module, str(REPEATS), tmp_path, "gs://bucket/x"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == 8 * REPEATS
    assert [trial for trial in trials if not trial["good"]] == []
    codes = collections.Counter(
        (trial["same"], *sorted(trial["codes"])) for trial in trials
    )
    assert codes[False, 0, 4] == 4 * REPEATS
