"""Tests that damaged files give exit code 0, or a documented one with a line.

`python -m tests.support.fuzz SEED MUTATIONS` does the same with other seeds.
"""

import json
import subprocess
import sys

import pytest

from tests.support import fuzz
from tests.support.jobs import ROOT

pytestmark = [pytest.mark.faults]

# Number of mutations per file. Slow readers get fewer.
MUTATIONS = 150
AT_LEAST = 2000


def test_no_damaged_file_ends_in_a_traceback_or_hangs():
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz", "0", str(MUTATIONS)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    print(*rows, sep="\n")
    assert [row["failures"] for row in rows if row["failures"]] == []
    known = {"0", "note", *map(str, fuzz.EXIT_CODES)}
    assert {outcome for row in rows for outcome in row["outcomes"]} <= known
    assert sum(row["mutations"] for row in rows) >= AT_LEAST
