"""Tests of ablation plans, with stop requests and failed runs."""

import json
import pathlib
import sys
import threading

import pytest

from configs import ablations
from job import errors
from job.config import ranges, resume, serialization
from job.modes import ablate
from job.supervision import preemption

PLAN = """
import ml_collections

def get_variants(plan):
    return {"pair": ("first", "second")}[plan]
"""

# Replacement for the job that records its flags and exits as `action` says.
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
    """Returns a plan of two variants whose runs are a small program."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("plan.py").write_text(PLAN)
    pathlib.Path("child.py").write_text(CHILD)
    pathlib.Path("action").write_text("none 0")
    program = pathlib.Path("python")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} child.py "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.absolute()))
    return ablate.AblationPlan.load("plan.py:pair", (4, 5))


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
    with pytest.raises(
        errors.ConfigError, match="must be 0 to 3, as the plan has 4 runs"
    ):
        run(plan, index=4)


def test_a_diverged_run_is_a_result_and_is_not_repeated(plan):
    pathlib.Path("action").write_text("first 5")
    run(plan)
    run(plan)
    assert len(starts("first", 4)) == len(starts("second", 5)) == 1
    failure = json.loads(
        pathlib.Path("out/first/seed-4/failure.json").read_text()
    )
    assert failure["exit_code"] == 5


def test_a_diverged_run_is_repeated_with_other_arguments(plan):
    pathlib.Path("action").write_text("first 5")
    run(plan)
    pathlib.Path("action").write_text("none 0")
    stop = preemption.StopRequest()
    patient = ["--config.checkpoint.on_nonfinite=rollback"]
    ablate.run_plan(plan, pathlib.Path("out"), patient, stop)
    assert len(starts("first", 4)) == 2
    assert not pathlib.Path("out/first/seed-4/failure.json").exists()
    # A run that cannot resume keeps its failure.json.
    pathlib.Path("action").write_text("first 5")
    again = ablate.AblationPlan.load("plan.py:pair", (6,))
    run(again)
    pathlib.Path("action").write_text("first 4")
    with pytest.raises(errors.RunFailedError, match="exited with code 4"):
        ablate.run_plan(again, pathlib.Path("out"), patient, stop)
    assert pathlib.Path("out/first/seed-6/failure.json").exists()


@pytest.mark.parametrize("code", [1, 2, 3, 69, 76])
def test_any_other_failure_ends_the_plan(plan, code):
    pathlib.Path("action").write_text(f"second {code}")
    with pytest.raises(errors.RunFailedError, match="second/seed-4") as caught:
        run(plan)
    assert caught.value.exit_code == code
    assert not pathlib.Path("out/first/seed-5").exists()


def test_a_stop_request_is_forwarded(plan):
    pathlib.Path("action").write_text("first sleep")
    stop = preemption.StopRequest()

    def request():
        while not pathlib.Path("sleeping").exists():
            pass
        stop.requested = True

    thread = threading.Thread(target=request)
    thread.start()
    with pytest.raises(errors.PreemptedError):
        run(plan, stop)
    thread.join()
    assert not pathlib.Path("out/second").exists()


def test_cumulative_variants_are_optional(plan):
    assert not plan.cumulative
    with open("plan.py", "a") as file:
        file.write('CUMULATIVE = {"pair": ("first", "second")}')
    built = ablate.AblationPlan.load("plan.py:pair", (4,))
    assert built.cumulative == ("first", "second")
    for name, variants in ablations.CUMULATIVE.items():
        assert set(variants) <= set(ablations.get_variants(name))


def test_runs_of_several_nodes_are_refused(plan):
    with pytest.raises(errors.ConfigError, match="JOB_COMPLETION_INDEX is the"):
        ablate.run(
            "plan.py:pair",
            "out",
            preemption.StopRequest(),
            strategy="multi_worker",
            seeds=(4,),
            arguments=(),
            index=None,
        )


@pytest.mark.parametrize("name", ["plan.py:none", "plan.py", "no.py:x"])
def test_an_absent_plan_is_named(plan, name):
    with pytest.raises(errors.ConfigError, match=name):
        ablate.AblationPlan.load(name, (0,))


@pytest.mark.parametrize("plan_name", list(ablations.PLANS))
def test_every_variant_of_every_plan_is_a_config(plan_name):
    names = ablations.get_variants(plan_name)
    fields = []
    for name in ("", *names):
        made = ablations.get_config(f"{plan_name}/{name}")
        ranges.check(made)
        hashed = resume.fingerprint(serialization.flatten(made))
        fields.append((hashed, made.epochs))  # A resume may change the epochs.
    assert len(set(fields[1:])) == len(names)
