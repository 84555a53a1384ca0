"""Plans of runs: each is started once, a stop is handed on, failures stay."""

import json
import pathlib
import shutil
import signal
import sys
import threading

import pytest

from configs import ablations
from job import errors
from job.config import ranges as config
from job.modes import ablate
from job.output import ablation
from job.report import comparison as compare
from job.storage.workdir import ABLATION, FAILURE
from job.supervision import preemption
from tests.support.jobs import run_job

PLAN = """
import ml_collections

def get_variants(plan):
    return {"pair": ("first", "second")}[plan]
"""

# Stands for the job: notes its flags, ends as the variant's name says.
CHILD = """
import json, pathlib, sys, time
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[3:])
workdir = pathlib.Path(flags["workdir"])
if (workdir / "result.json").exists():
    sys.exit(0)
workdir.mkdir(parents=True, exist_ok=True)
with open(workdir / "starts", "a") as file:
    file.write(json.dumps(flags) + "\\n")
action = pathlib.Path("action").read_text().split()
variant = flags["config"].rpartition("/")[2]
if action[0] == variant:
    if action[1] == "sleep":
        pathlib.Path("sleeping").touch()
        time.sleep(60)
    sys.exit(int(action[1]))
(workdir / "result.json").write_text("{}")
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan of two variants whose runs are a small program."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("plan.py").write_text(PLAN)
    pathlib.Path("child.py").write_text(CHILD)
    pathlib.Path("action").write_text("none 0")
    program = pathlib.Path("python")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} child.py "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.absolute()))
    return ablate.Plan.load("plan.py:pair", (4, 5))


def starts(variant, seed):
    path = pathlib.Path("out") / variant / f"seed-{seed}" / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(plan, stop=None, **kwargs):
    ablate.run_plan(
        plan,
        pathlib.Path("out"),
        ["--config.epochs=2"],
        stop or preemption.StopRequest(),
        **kwargs,
    )


def test_every_variant_runs_with_every_seed_and_only_once(plan):
    run(plan)
    run(plan)
    for variant in ("first", "second"):
        for seed in (4, 5):
            (flags,) = starts(variant, seed)
            assert flags == {
                "config": f"plan.py:pair/{variant}",
                "workdir": f"out/{variant}/seed-{seed}",
                "config.epochs": "2",
                "config.seed": str(seed),
            }


def test_an_index_is_one_run(plan):
    run(plan, index=2)
    assert len(starts("first", 5)) == 1
    assert not pathlib.Path("out/second").exists()
    with pytest.raises(errors.ConfigError, match="4 runs, 0 to 3"):
        run(plan, index=4)


def test_divergence_is_a_result_and_is_not_tried_again(plan):
    pathlib.Path("action").write_text("first 5")
    run(plan)
    run(plan)
    assert len(starts("first", 4)) == len(starts("second", 5)) == 1
    failure = json.loads(
        pathlib.Path("out/first/seed-4/failure.json").read_text()
    )
    assert failure["exit_code"] == 5


def test_what_diverged_is_tried_with_other_arguments(plan):
    pathlib.Path("action").write_text("first 5")
    run(plan)
    pathlib.Path("action").write_text("none 0")
    stop = preemption.StopRequest()
    patient = ["--config.checkpoint.on_nonfinite=rollback"]
    ablate.run_plan(plan, pathlib.Path("out"), patient, stop)
    assert len(starts("first", 4)) == 2
    assert not pathlib.Path("out/first/seed-4/failure.json").exists()
    # What cannot go on leaves it said.
    pathlib.Path("action").write_text("first 5")
    again = ablate.Plan.load("plan.py:pair", (6,))
    run(again)
    pathlib.Path("action").write_text("first 4")
    with pytest.raises(errors.ResumeError):
        ablate.run_plan(again, pathlib.Path("out"), patient, stop)
    assert pathlib.Path("out/first/seed-6/failure.json").exists()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(3, errors.DataError), (69, errors.DeviceError), (1, errors.JobError)],
)
def test_what_all_runs_share_ends_the_plan(plan, code, kind):
    pathlib.Path("action").write_text(f"second {code}")
    with pytest.raises(kind, match="second, seed 4") as caught:
        run(plan)
    assert caught.value.exit_code == code
    assert not pathlib.Path("out/first/seed-5").exists()


def test_a_stop_is_handed_on(plan):
    pathlib.Path("action").write_text("first sleep")
    stop = preemption.StopRequest()

    def ask():
        while not pathlib.Path("sleeping").exists():
            pass
        stop.requested = True

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(errors.JobError, match=str(-signal.SIGTERM)):
        run(plan, stop)
    thread.join()
    assert not pathlib.Path("out/second").exists()


def test_a_plan_may_say_that_its_runs_build_on_each_other(plan):
    assert not plan.cumulative
    with open("plan.py", "a") as file:
        file.write('CUMULATIVE = ("pair",)')
    assert ablate.Plan.load("plan.py:pair", (4,)).cumulative
    assert set(ablations.CUMULATIVE) <= set(ablations._PLANS)


@pytest.mark.parametrize("name", ["plan.py:none", "plan.py", "no.py:x"])
def test_a_plan_that_is_none_is_named(plan, name):
    with pytest.raises(errors.ConfigError, match=name):
        ablate.Plan.load(name, (0,))


@pytest.mark.parametrize("plan_name", list(ablations._PLANS))
def test_every_variant_of_every_plan_is_a_config(plan_name):
    names = ablations.get_variants(plan_name)
    fields = []
    for name in ("", *names):
        made = ablations.get_config(f"{plan_name}/{name}")
        config.check(made)
        hashed = config.fingerprint(config.flatten(made))
        fields.append((hashed, made.epochs))  # Which a resume may change.
    assert len(set(fields[1:])) == len(names)


def test_what_a_line_had_cost():
    result = {"train_tflop": 5.0, "train_steps": 500}
    run = compare.EndedRun("a", result, {}, [])
    assert compare.cost_of(run, {"step": 100, "train_tflop": 0.7}) == 0.7
    # An earlier version's.
    assert compare.cost_of(run, {"step": 100}) == 1.0
    assert (
        compare.cost_of(compare.EndedRun("a", None, {}, []), {"step": 1})
        is None
    )


def test_seconds_are_counted_up_to_the_evaluation_itself():
    lines = [
        {"split": "train", "step": 100, "images_per_second": 100.0},
        {"split": "test", "step": 150, "accuracy": 0.5},
        {"split": "train", "step": 200, "images_per_second": 10.0},
        {"split": "test", "step": 200, "accuracy": 0.6},
    ]
    run = compare.EndedRun("a", {"x": 1}, {"global_batch_size": 10}, lines)
    assert compare.seconds_to(run, 0.4) == pytest.approx(10 + 50)
    assert compare.seconds_to(run, 0.55) == pytest.approx(10 + 100)
    assert compare.seconds_to(run, 0.7) is None


@pytest.mark.parametrize("cumulative", [True, False])
def test_the_report_compares_variants(tmp_path, cumulative):
    made = {"naive": [0.1, None], "recipe": [0.8, 0.9], "lost": [None]}
    files = {
        "plan": "x:y",
        "variants": ["naive", "recipe", "lost", "not_run"],
        "seeds": [0, 1],
        "cumulative": cumulative,
    }
    (tmp_path / ABLATION).write_text(json.dumps(files))
    for variant, accuracies in made.items():
        for seed, accuracy in enumerate(accuracies):
            folder = ablation.run_folder(tmp_path, variant, seed)
            folder.mkdir(parents=True)
            (folder / "config.json").write_text('{"global_batch_size": 100}')
            if accuracy is None:
                (folder / FAILURE).write_text('{"exit_code": 5}')
                continue
            result = {
                "test_accuracy": accuracy,
                "test_accuracy_tta": accuracy + 0.01,
                "train_seconds": 9.6,
                "images_per_second": 1234.0,
                "train_tflop": 5.0,
                "compile_seconds": 7.0,
            }
            (folder / "result.json").write_text(json.dumps(result))
            scores = [(100, 100.0, 0.05), (300, 1000.0, 0.2), (500, 1e3, 0.3)]
            if variant == "naive":
                scores[1] = (300, 1000.0, accuracy)
            lines = [
                {
                    "step": step,
                    "epoch": step / 100,
                    "split": split,
                    "accuracy": score,
                    "images_per_second": rate,
                }
                for step, rate, score in scores
                for split in ("train", "test")
            ]
            (folder / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
    table = compare.write_report([tmp_path]).splitlines()
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in table[2:]
    ]
    # 100 steps of 100 images at 100 images/s, and 200 at 1,000.
    spent = ["10", "120 + 7", "1,234", "5"]
    assert rows == [
        ["naive", "10.00", "", "11.00", "1 (1 diverged)", *spent],
        ["recipe", "85.00 ± 7.07", "+75.00", "86.00 ± 7.07", "2", *spent],
        ["lost", "", "", "", "0 (1 diverged)", "0", "", "0", "0"],
    ]
    for name in ("waterfall.png", "curves.png", "accuracy_gflop.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(errors.ConfigError, match="no run has come to an end"):
        compare.write_report([tmp_path / "naive"])


def test_runs_that_share_their_last_name_are_compared_by_the_whole(
    trained_run, tmp_path
):
    for name in ("a", "b"):
        shutil.copytree(trained_run, tmp_path / name / "seed-0")
    runs = [str(tmp_path / name / "seed-0") for name in ("a", "b")]
    out = tmp_path / "new"
    report = ("--mode=report", f"--workdir={out}")
    done = run_job(*report, f"--runs={runs[0]},{tmp_path / 'c'}")
    assert done.returncode == 2
    assert "there is no config.json" in done.stderr
    assert not out.exists()
    done = run_job(*report, f"--runs={','.join(runs)}")
    assert done.returncode == 0, done.stderr
    table = (out / "report.md").read_text()
    assert [f"| {name} |" in table for name in runs] == [True, True]
    assert (tmp_path / "b" / "seed-0" / "report.html").exists()
