"""Fixtures of the tests of reports."""

import pytest

from tests.support import finished_run


@pytest.fixture
def workdir(tmp_path):
    """Workdir of a finished run."""
    finished_run.write_run(tmp_path)
    return tmp_path
