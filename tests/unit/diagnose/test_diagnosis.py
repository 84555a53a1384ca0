"""Tests of the diagnosis of configs and runs, and of its documents."""

import json
import re

import numpy as np
import pytest

from configs import (
    advice_augment,
    advice_frozen,
    advice_upsample,
    naive,
    smoke,
    stem32,
    transfer,
)
from job import errors, train
from job.config import ranges, run_config
from job.diagnose import costs, diagnosis, finding, from_network
from job.storage import workdir
from job.storage.workdir import DIAGNOSE
from job.supervision.preemption import StopRequest
from tests.support import keras_models
from tests.support.jobs import ROOT, from_environment, run_job

DATA = {
    "data.source": "synthetic",
    "data.synthetic_train_images": 320,
    "data.synthetic_test_images": 40,
}


def changed(config, changes):
    """Returns a checked config with changes, on a few synthetic images."""
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


def test_naive_config_has_its_learning_rate_first():
    config = changed(
        naive.get_config(),
        {"model.width": 0.125, "model.head_units": (512, 512)},
    )
    found, report = diagnose(config)
    assert report.findings[0].check == "learning_rate"
    assert {"no_batch_norm", "constant_rate", "large_head"} <= found.keys()
    assert not {"stuck_at_chance", "overfit_one_batch"} & found.keys()


@pytest.mark.parametrize(
    "changes",
    [{}, {"model.init": "dirac", "optimizer.clip_norm": 1.0}],
    ids=["plain", "dirac"],
)
def test_sound_config_has_no_findings(tmp_path, changes):
    place = workdir.Workdir(tmp_path)
    found, report = diagnose(changed(smoke.get_config(), changes), place)
    assert found == {}
    assert "overfit_one_batch" in report.passed
    assert not report.skipped
    content = json.loads((tmp_path / DIAGNOSE).read_text())
    assert content["findings"] == []


def test_low_rate_is_not_mistaken_for_a_network_that_cannot_learn():
    rate = {"optimizer.peak_learning_rate": 1e-5}
    found, report = diagnose(changed(smoke.get_config(), rate))
    assert "too low" in found["learning_rate"].title, report.facts
    # Only the learning rate is reported, and only once.
    assert found.keys() == {"learning_rate"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the workdir of a finished 10-step run, which tests only read."""
    folder = tmp_path_factory.mktemp("run") / "a"
    config = changed(smoke.get_config(), {})
    train.train_and_evaluate(config, workdir.Workdir(folder), StopRequest())
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
    place = workdir.Workdir(finished)
    _, report = diagnose(run_config.load(workdir.Workdir(finished)), place)
    after = contents(finished)
    assert after.keys() - before.keys() == {DIAGNOSE}
    assert before.items() <= after.items()
    for name in ("memorized", "running_moments"):
        assert name in {*report.passed, *(f.check for f in report.findings)}
    assert "after 10 of 10 steps" in report.summary


def test_nothing_is_written_for_a_bucket(no_probes, tmp_path):
    place = workdir.Workdir(tmp_path, "gs://bucket/run", mirror=object())
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
    place = workdir.Workdir(folder)
    (folder / "result.json").write_text("[]")
    _, report = diagnose(run_config.load(workdir.Workdir(folder)), place)
    assert "no checkpoint can be read" in report.skipped["memorized"]
    assert contents(folder / "checkpoints") == before


def test_absent_weights_end_the_diagnosis_of_a_config():
    weights = {"model.weights": "/no/such/weights.h5"}
    with pytest.raises(errors.DataError):
        diagnose(changed(transfer.get_config(), weights))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "--workdir=DIR or --keras_model=FILE"),
        (["--workdir=tests"], 2, "no config.json"),
        (["--keras_model=no.keras"], 3, "the file does not exist"),
        (["--keras_model=no.keras", "--workdir=x"], 2, "leave out --workdir"),
        (["--keras_model=a.keras", "--images=x.npy"], 2, "--labels is missing"),
        (["--images=x.npy", "--labels=y.npy"], 2, "--keras_model is missing"),
    ],
    ids=["nothing", "no_run", "no_model", "model_and_run", "half", "arrays"],
)
def test_bad_input_ends_with_one_line(args, code, message):
    done = run_job("--mode=diagnose", *args)
    assert done.returncode == code, done.stderr
    (text,) = done.stderr.strip().splitlines()[-1:]
    assert message in text


def test_errors_of_arrays_name_their_flag(tmp_path):
    model = keras_models.compiled(keras_models.plain())
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", np.zeros((2, 32, 32, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.array(["cat", "dog"]))
    np.save(tmp_path / "short.npy", np.zeros(1, int))
    for images, labels, message in (
        ("x", "y", "--labels=.*return_inverse"),
        ("y", "short", "--images="),
        ("x", "short", "--images=.*2 images, but 1 labels"),
    ):
        with pytest.raises(errors.DataError, match=message):
            diagnosis.diagnose_model(
                tmp_path / "model.keras",
                StopRequest(),
                images=tmp_path / f"{images}.npy",
                labels=tmp_path / f"{labels}.npy",
            )


def test_workdir_of_another_config_is_refused(finished):
    done = run_job(
        "--mode=diagnose",
        f"--workdir={finished}",
        "--config=configs/quickstart.py",
    )
    assert done.returncode == 2
    assert "contains a run of another config" in done.stderr


def test_table_of_the_document_has_every_mistake():
    text = (ROOT / "docs/diagnose.md").read_text()
    text = text.partition("## Planted models")[0]
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(finding.MISTAKES)


def test_costs_are_those_of_the_result_files():
    """Compares every figure of a cost with docs/results."""
    counted = 0
    for cost in vars(costs).values():
        match = isinstance(cost, costs.Cost) and re.fullmatch(
            r"docs/results.md, (\w+): (\S+) ([\d.]+), (\S+) ([\d.]+)",
            cost.source,
        )
        if not match:
            continue
        table = json.loads((ROOT / f"docs/results/{match[1]}.json").read_text())
        for variant, figure in ((match[2], match[3]), (match[4], match[5])):
            runs = [
                run["accuracy"]
                for run in table["runs"]
                if run["variant"] == variant
            ]
            assert sum(runs) / len(runs) == pytest.approx(float(figure))
        counted += 1
    assert counted >= 4


@pytest.mark.parametrize(
    ("width", "epochs", "table", "variant"),
    [
        (0.25, 9, "recipe_muon", "10ep"),
        (0.5, 10, "baselines_half", "stem32"),
        (0.5, 20, "baselines", "stem32"),
        (1.0, 20, "full_width", "stem32"),
    ],
)
def test_expected_accuracy_is_that_of_the_result_files(
    width, epochs, table, variant
):
    runs = [
        run["accuracy"]
        for run in json.loads(
            (ROOT / f"docs/results/{table}.json").read_text()
        )["runs"]
        if run["variant"] == variant
    ]
    found = re.search(
        r"([\d.]+)% after (\d+) epochs", costs.expected_accuracy(width, epochs)
    )
    assert float(found[1]) == pytest.approx(sum(runs) / len(runs), abs=0.051)
    assert int(found[2]) == epochs


# A busy machine takes up to four times as long.
@pytest.mark.timeout(900)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("module", "first"),
    [
        pytest.param(naive, "learning_rate", id="naive"),
        pytest.param(advice_augment, "learning_rate", id="advice_augment"),
        pytest.param(advice_upsample, "frozen_base", id="advice_upsample"),
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
