"""Tests of the Makefile: help, aliases and the modules that it runs."""

import importlib.util
import re
import subprocess

import pytest

from tests.support.jobs import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
# Targets without a line in `make help`.
ALIASES = {"bench": "benchmark-frameworks", "records": "baselines"}
INTERNAL = {"need-run"}


def run_make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def dry_run(target: str, *arguments: str) -> str:
    return run_make("--dry-run", target, "SET=cpu", "VENV=none", *arguments)


def test_help_lists_every_target_once():
    phony = set()
    for names in re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE):
        phony |= set(names.split())
    listed = re.findall(r"^  make (\S+) ", run_make("help"), re.MULTILINE)
    assert sorted(listed) == sorted(phony - ALIASES.keys() - INTERNAL)


def test_help_has_the_groups():
    groups = re.findall(r"^[A-Z][a-z ]+$", run_make("help"), re.MULTILINE)
    assert groups == [
        "Train",
        "Inspect a run",
        "Experiments",
        "Development",
        "Image and cluster",
        "Variables",
    ]


@pytest.mark.parametrize(("former", "target"), ALIASES.items())
def test_an_alias_names_its_target_and_runs_it(former, target):
    recipe = dry_run(former, "DATA=images", "ARGS=--seeds=2")
    notices = [line for line in recipe.splitlines() if "is now called" in line]
    assert len(notices) == 1
    assert f"make {target}" in notices[0]
    commands = [line for line in recipe.splitlines() if "none/bin" in line]
    same = dry_run(target, "DATA=images", "ARGS=--seeds=2")
    assert commands == [
        line for line in same.splitlines() if "none/bin" in line
    ]
    assert "--seeds=2" in recipe


def test_every_module_that_the_makefile_runs_exists():
    modules = set(re.findall(r" -m ((?:job|benchmarks)[\w.]*)", MAKEFILE))
    assert modules == {
        "job.main",
        "benchmarks.first_hour",
        "benchmarks.frameworks",
    }
    for module in modules:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
    ("variable", "fix"),
    [
        ("epochs=5", 'ARGS="--config.epochs=5"'),
        ("CONFIGS=5", 'ARGS="--config.configs=5"'),
        ("data=images", "use DATA=images."),
    ],
)
def test_an_unknown_variable_is_refused(variable, fix):
    done = subprocess.run(
        # Under another make, this one would print its directory.
        [
            "make",
            "--no-print-directory",
            "--dry-run",
            "train",
            "SET=cpu",
            "VENV=none",
            variable,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{variable}: the variable is unknown. Fix: use " in done.stderr
    assert fix in done.stderr
    assert not done.stdout


def test_variables_of_the_environment_are_not_refused(monkeypatch):
    monkeypatch.setenv("epochs", "5")
    assert "-m job.main" in dry_run("train", "-e")


def test_fetch_leaves_the_source_to_the_job(tmp_path):
    recipe = dry_run("fetch", f"DATA={tmp_path}")
    assert "--config=configs/stem32.py" in recipe
    assert "data.source" not in recipe


def test_a_config_by_its_short_name_has_the_usual_workdir():
    assert "--workdir=runs/stem32-10ep" in dry_run(
        "train", "CONFIG=stem32:10ep"
    )


def test_tensorboard_shows_one_run_or_all():
    assert "--logdir=runs\n" in dry_run("tensorboard")
    assert "--logdir=runs/a\n" in dry_run("tensorboard", "WORKDIR=runs/a")


def test_the_first_hour_on_a_gpu_installs_nothing():
    recipe = dry_run("gpu-first-hour", "DATA=images", "STAGE=train", "RUN=py")
    assert recipe.split() == [
        *("py", "-m", "benchmarks.first_hour"),
        *("--data=images", "--stage=train"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "MODEL, WORKDIR or CONFIG is missing"),
        (("MODEL=m.keras", "CONFIG=naive"), "MODEL=m.keras: conflict"),
        (("MODEL=m.keras", "WORKDIR=runs/a"), "MODEL=m.keras: conflict"),
    ],
)
def test_diagnose_needs_one_subject(arguments, message):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        dry_run("diagnose", *arguments)
    assert message in failed.value.stderr


def test_diagnose_takes_a_model_with_its_arrays():
    arrays = "--images=x.npy --labels=y.npy"
    recipe = dry_run("diagnose", "MODEL=m.keras", f"ARGS={arrays}")
    assert "--keras_model=m.keras" in recipe
    assert recipe.rstrip().endswith(arrays)
    assert "--config" not in recipe
