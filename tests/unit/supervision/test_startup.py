"""Tests of the import of TensorFlow."""

import os
import subprocess
import sys

import pytest

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


def flags_after_import(tmp_path, **environment):
    """Returns XLA_FLAGS after an import, with a wheel of ptxas installed."""
    toolkit = tmp_path / "nvidia/cuda_nvcc"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "bin/ptxas").touch()
    # The import of TensorFlow is aborted.
    code = (
        "import os, sys; from job.supervision import startup\n"
        "sys.modules['tensorflow'] = None\n"
        "try: startup.import_tensorflow()\n"
        "except ImportError: print(os.environ.get('XLA_FLAGS'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip(), f"--xla_gpu_cuda_data_dir={toolkit}"


@pytest.mark.parametrize("given", ["", "--xla_gpu_autotune_level=2"])
def test_another_toolkit_does_not_replace_the_wheels_ptxas(tmp_path, given):
    other = tmp_path / "other"
    other.mkdir()
    (other / "ptxas").touch(mode=0o755)
    path = f"{other}{os.pathsep}{os.environ['PATH']}"
    found, flag = flags_after_import(tmp_path, PATH=path, XLA_FLAGS=given)
    assert found == f"{given} {flag}".strip()


def test_configured_toolkit_is_kept(tmp_path):
    given = "--xla_gpu_cuda_data_dir=/opt/cuda"
    found, _ = flags_after_import(tmp_path, XLA_FLAGS=given)
    assert found == given
