"""Mode report: pages of runs, and a comparison of several."""

import json
import shutil

import pytest

from job import errors
from job.modes import report, train
from job.storage import workdir as workdirs
from job.storage.workdir import COMPARE_PAGE, FAILURE, REPORT, RESULT
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import Watchdog
from tests.support import finished_run
from tests.support.finished_run import Reader
from tests.support.jobs import run_job


@pytest.fixture
def workdir(tmp_path):
    """Returns the workdir of a finished run."""
    finished_run.write_run(tmp_path)
    return tmp_path


def test_the_page_of_a_run_in_a_bucket_is_uploaded(workdir, bucket):
    for path in workdir.rglob("*"):
        if path.is_file():
            name = path.relative_to(workdir).as_posix()
            bucket.put(name, path.read_bytes())
    before = bucket.files()
    outcome = report.run([bucket.url])
    there = bucket.files()
    assert there.keys() - before.keys() == {REPORT}
    assert all(there[name] == content for name, content in before.items())
    read = Reader(there[REPORT].decode())
    for part in (
        bucket.url,
        "15.00%",
        "1 restart.",
        "most confident mistakes",
    ):
        assert part in read.text, part
    assert "is missing" not in read.text
    assert outcome.output == [f"{bucket.url}/{REPORT}"]


def test_an_ablation_in_a_bucket_is_not_compared(bucket):
    bucket.put("ablation.json", b'{"variants": ["a"], "seeds": [0]}')
    with pytest.raises(errors.ConfigError, match="gcloud storage cp -r gs://"):
        report.run([bucket.url])


def test_several_runs_get_pages_and_a_comparison(workdir, tmp_path_factory):
    report.run([str(workdir)])
    assert (workdir / REPORT).exists()
    assert not (workdir / "report.md").exists()
    other = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(workdir, other)
    (other / REPORT).unlink()
    outcome = report.run([str(workdir), str(other)])
    assert outcome.output[-1] == str(workdir / COMPARE_PAGE)
    assert (other / REPORT).exists()
    assert (
        "| second | 75.00 | within noise |"
        in (workdir / "report.md").read_text()
    )
    assert "| second |" in "\n".join(outcome.output)
    with pytest.raises(errors.ConfigError, match=r"neither config\.json"):
        report.run([str(workdir), str(workdir / "checkpoints")])
    compared = other.parent / "compared"
    report.run([str(compared), str(workdir), str(other)])
    assert "| second |" in (compared / "report.md").read_text()


def test_the_report_of_a_diverged_run_names_the_divergence(
    config, tmp_path, monkeypatch
):
    from job import train as train_lib

    def diverge(config, workdir, *args, **kwargs):
        finished_run.write_run(workdir.local)
        (workdir.local / RESULT).unlink()
        raise errors.DivergedError("the loss of step 7 is not finite")

    monkeypatch.setattr(train_lib, "train_and_evaluate", diverge)
    stop, watchdog = StopRequest(), Watchdog(0.0)
    with (
        workdirs.open_workdir(str(tmp_path)) as workdir,
        pytest.raises(errors.DivergedError),
    ):
        train.run(
            config,
            workdir,
            stop,
            watchdog,
            upload_seconds=60.0,
            config_name="configs/smoke.py",
        )
    assert json.loads((tmp_path / FAILURE).read_text())["exit_code"] == 5
    text = Reader((tmp_path / REPORT).read_text()).text
    assert "Diverged. the loss of step 7 is not finite" in text


def test_runs_with_equal_last_names_are_compared_by_their_paths(
    workdir, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("runs")
    runs = [str(folder / name / "seed-0") for name in ("a", "b")]
    for run in runs:
        shutil.copytree(workdir, run)
    out = folder / "new"
    mode = ("--mode=report", f"--workdir={out}")
    done = run_job(*mode, f"--runs={runs[0]},{folder / 'c'}")
    assert done.returncode == 2
    assert "neither config.json of a run" in done.stderr
    assert not out.exists()
    report.run([str(out), *runs])
    table = (out / "report.md").read_text()
    assert [f"| {name} |" in table for name in runs] == [True, True]


def test_a_workdir_that_is_given_twice_is_one_run(workdir):
    again = f"{workdir}/../{workdir.name}"
    output = report.run([str(workdir), again]).output
    assert not any("compare.html" in line for line in output)
