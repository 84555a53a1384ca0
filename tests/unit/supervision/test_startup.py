"""Import of TensorFlow: what native code writes is never lost."""

import subprocess
import sys

from tests.support.jobs import ROOT

_ABORT = """
import importlib.abc, os, sys
from job.supervision import startup

class Abort(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            os.write(2, b"check failed: no such instruction\\n")
            os.abort()

sys.meta_path.insert(0, Abort())
startup.import_tensorflow()
"""


def test_the_output_of_an_abort_during_the_import_is_kept():
    done = subprocess.run(
        [sys.executable, "-c", _ABORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -6
    assert "check failed: no such instruction" in done.stderr
