"""Tests of mode diagnose: the page of a diagnosed run."""

from configs import smoke
from job.config import serialization
from job.diagnose import diagnosis, finding
from job.modes import diagnose
from job.storage import files
from job.storage.workdir import CONFIG, DIAGNOSE, REPORT
from job.supervision.preemption import StopRequest
from tests.support import finished_run


def test_the_page_of_a_run_shows_its_diagnosis(tmp_path, monkeypatch):
    def write_and_return(config, workdir, stop, *, command):
        report = finding.Report([], [], {}, {}, 1.0, summary="The summary.")
        files.write_json(workdir.local / DIAGNOSE, finding.to_json(report))
        return report

    monkeypatch.setattr(diagnosis, "diagnose", write_and_return)
    finished_run.write_run(tmp_path / "run")
    config = serialization.to_json(smoke.get_config())
    files.write_json(tmp_path / "run" / CONFIG, config)
    page = tmp_path / "run" / REPORT
    assert not page.exists()
    diagnose.run(None, str(tmp_path / "run"), StopRequest())
    assert not page.exists()
    page.touch()
    diagnose.run(None, str(tmp_path / "run"), StopRequest())
    assert "The summary." in page.read_text()
