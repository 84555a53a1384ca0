"""Tests of the workarounds for private TensorFlow functions."""

import pytest

from job import errors
from job.supervision import tensorflow_workarounds
from tests.support.jobs import ROOT


def test_another_version_is_refused_with_the_purpose():
    tensorflow_workarounds.check_version("the input pipeline")
    for version in ("2.22.0", "2.2.1", "3.0.0"):
        with pytest.raises(
            errors.ConfigError, match=f"{version} is installed, but the input"
        ):
            tensorflow_workarounds.check_version("the input pipeline", version)


def test_private_functions_are_used_only_in_that_module():
    uses = {
        path.name
        for path in (ROOT / "job").rglob("*.py")
        if "tensorflow.python" in path.read_text(encoding="utf-8")
        or "mock.patch" in path.read_text(encoding="utf-8")
    }
    assert uses == {"tensorflow_workarounds.py"}
