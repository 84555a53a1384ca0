"""Diagnosis of whole configs and runs, an eighth of the width; its documents.

Each check has a test of its own in the other modules of this folder.
"""

import ast
import json
import re

import pytest

from configs import advice_frozen, naive, smoke, stem32, transfer
from job import errors, train
from job.config import ranges, run_config
from job.diagnose import diagnosis, from_network
from job.storage import workdir
from job.storage.workdir import DIAGNOSE, RANGE_TEST
from job.supervision.preemption import StopRequest
from tests.support.jobs import ROOT, from_environment, run_job

DATA = {
    "data.source": "synthetic",
    "data.synthetic_train_images": 320,
    "data.synthetic_test_images": 40,
}


def changed(config, changes):
    """Returns a checked config with changes, on few synthetic images."""
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict({**DATA, **changes})
    ranges.check(config)
    return config


def diagnose(config, place=None):
    """Returns the findings by their checks, and the report."""
    report = diagnosis.diagnose(config, place, StopRequest(), seconds=600.0)
    return {found.check: found for found in report.findings}, report


@pytest.fixture
def no_probes(monkeypatch):
    """Leaves out the probes, which train a network."""
    monkeypatch.setattr(
        from_network, "check_network", lambda *args, **kwargs: None
    )


def test_naive_config_is_stuck_at_chance():
    config = changed(
        naive.get_config(),
        {"model.width": 0.125, "model.head_units": (512, 512)},
    )
    found, report = diagnose(config)
    first = report.findings[0]
    # At this width the loss may move a little.
    assert first.check in ("stuck_at_chance", "no_batch_norm")
    assert first.cost.points == 60.51
    assert len(found.keys() & {"stuck_at_chance", "no_batch_norm"}) == 1
    assert "overfit_one_batch" not in found
    assert {"constant_rate", "large_head", "no_augmentation"} <= found.keys()


@pytest.mark.parametrize(
    "changes",
    [{}, {"model.init": "dirac", "optimizer.clip_norm": 1.0}],
    ids=["plain", "dirac"],
)
def test_sound_config_has_no_findings_and_a_plot(tmp_path, changes):
    place = workdir.Workdir(str(tmp_path), tmp_path)
    found, report = diagnose(changed(smoke.get_config(), changes), place)
    assert found == {}
    assert "range_test" in report.passed
    assert not report.skipped
    plot = (tmp_path / RANGE_TEST).read_bytes()
    assert plot.startswith(b"\x89PNG")
    content = json.loads((tmp_path / DIAGNOSE).read_text())
    assert content["findings"] == []


def test_low_rate_is_not_mistaken_for_a_network_that_cannot_learn():
    rate = {"optimizer.peak_learning_rate": 1e-5}
    found, report = diagnose(changed(smoke.get_config(), rate))
    assert "too low" in found["range_test"].title, report.facts
    # The rate alone is reported, and only once.
    assert found.keys() == {"range_test"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run of 10 steps that has ended; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "a"
    config = changed(smoke.get_config(), {})
    train.train_and_evaluate(config, folder, StopRequest())
    return folder


def contents(folder):
    """Returns the bytes of all files in a folder, by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_run_is_read_and_left_unchanged(finished, no_probes):
    before = contents(finished)
    place = workdir.Workdir(str(finished), finished)
    _, report = diagnose(run_config.load(finished), place)
    after = contents(finished)
    assert after.keys() - before.keys() == {DIAGNOSE}
    assert before.items() <= after.items()
    for name in ("train_test_gap", "running_moments", "best_epoch"):
        assert name in {*report.passed, *(f.check for f in report.findings)}
    assert "step 10 of 10" in report.facts["newest checkpoint"]
    assert "last" in report.facts["accuracy"]


def test_nothing_is_written_for_a_bucket(no_probes, tmp_path):
    place = workdir.Workdir("gs://bucket/run", tmp_path, mirror=object())
    diagnose(changed(smoke.get_config(), {}), place)
    assert not contents(tmp_path)


def test_damaged_checkpoint_is_left_in_place(finished, no_probes, tmp_path):
    folder = tmp_path / "copy"
    for name, content in contents(finished).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        damaged = name.startswith("checkpoints/")
        path.write_bytes(content[:-9] if damaged else content)
    before = contents(folder / "checkpoints")
    place = workdir.Workdir(str(folder), folder)
    (folder / "result.json").write_text("[]")
    _, report = diagnose(run_config.load(folder), place)
    assert "no checkpoint can be read" in report.skipped["train_test_gap"]
    assert contents(folder / "checkpoints") == before


def test_absent_weights_end_the_diagnosis_of_a_config():
    weights = {"model.weights": "/no/such/weights.h5"}
    with pytest.raises(errors.DataError):
        diagnose(changed(transfer.get_config(), weights))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "needs --config, --workdir or --keras_model"),
        (["--workdir=tests"], 2, "no config.json"),
        (["--keras_model=no.keras"], 3, "the file does not exist"),
        (["--keras_model=no.keras", "--workdir=x"], 2, "leave --workdir out"),
    ],
    ids=["nothing", "no_run", "no_model", "model_and_run"],
)
def test_bad_input_ends_with_one_line(args, code, message):
    done = run_job("--mode=diagnose", *args)
    assert done.returncode == code, done.stderr
    (text,) = done.stderr.strip().splitlines()[-1:]
    assert message in text


def test_workdir_of_another_config_is_refused(finished):
    done = run_job(
        "--mode=diagnose",
        f"--workdir={finished}",
        "--config=configs/quickstart.py",
    )
    assert done.returncode == 2
    assert "holds a run of another config" in done.stderr


def documented_checks():
    """Returns the planted faults of each check in docs/diagnose.md."""
    text = (ROOT / "docs/diagnose.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \|$", text, flags=re.MULTILINE
    )
    assert all(false == "0" for _, _, false in rows)
    return {check: int(found) for check, found, _ in rows}


def test_table_of_the_document_has_every_check():
    checks = set()
    for path in (ROOT / "job/diagnose").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", "")
                first = node.args[0]
                if name == "Finding" and isinstance(first, ast.Constant):
                    checks.add(first.value)
    assert documented_checks().keys() == checks


def test_readme_counts_the_planted_faults_of_the_document():
    readme = (ROOT / "README.md").read_text()
    total = sum(documented_checks().values())
    assert f"{total} planted faults found" in readme


# A busy machine takes up to four times as long.
@pytest.mark.timeout(900)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("module", "first"),
    [
        pytest.param(naive, "stuck_at_chance", id="naive"),
        pytest.param(advice_frozen, "frozen_base", id="advice_frozen"),
        pytest.param(stem32, None, id="stem32"),
    ],
)
def test_first_finding_on_real_images_is_the_right_one(
    module, first, cifar10_dir
):
    config = module.get_config()
    config.data.dir = str(cifar10_dir)
    if config.model.weights:
        config.model.weights = str(from_environment("VGG16_WEIGHTS"))
    report = diagnosis.diagnose(config, None, StopRequest())
    assert [f.check for f in report.findings][:1] == ([first] if first else [])
