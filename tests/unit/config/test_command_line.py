"""Order of command-line arguments, and fixes for wrong names."""

import pytest

from job import errors
from job.config import command_line

FLAGS = ("mode", "config", "workdir", "input", "keras_model", "seeds")
MODES = ("train", "predict", "report")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lr", "optimizer.peak_learning_rate"),
        ("optimizer.lr", "optimizer.peak_learning_rate"),
        ("learning_rate", "optimizer.peak_learning_rate"),
        ("learning-rate", "optimizer.peak_learning_rate"),
        ("batch_size", "global_batch_size"),
        ("evaluate.batch_size", "evaluate.global_batch_size"),
        ("epoch", "epochs"),
        ("num_epochs", "epochs"),
        ("weight_decay", "optimizer.weight_decay"),
        ("momentm", "optimizer.momentum"),
        ("data_dir", "data.dir"),
        ("cutout", "augment.cutout_pixels"),
        ("augment.mixup", "augment.mixup_alpha"),
        ("model.modl.width", "model.width"),
        ("warmup_epochs", "optimizer.warmup_epochs"),
        ("gpus", "distribute.require_gpus"),
        ("frobnicate", ""),
        ("", ""),
    ],
)
def test_the_nearest_field(name, field):
    assert command_line.nearest_field(name) == field


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--batch_size", "use --config.global_batch_size=VALUE"),
        ("--epochs=5", "use --config.epochs=5"),
        ("--work_dir=runs/a", "use --workdir=runs/a"),
        ("--output_dir=runs/a", "use --workdir=runs/a"),
        ("--seed=3", "use --seeds=3"),
        ("train", "use --mode=train"),
        ("lr=0.1", "use --config.optimizer.peak_learning_rate=0.1"),
        ("stem32:10ep", "use --config=stem32:10ep"),
        ("--resume", "leave it out"),
        ("--frobnicate=1", "see --help"),
    ],
)
def test_an_unknown_argument_names_its_fix(argument, fix):
    error = command_line.unknown(argument, "wrong", flags=FLAGS, modes=MODES)
    assert str(error).startswith(f"{argument}: wrong. Fix: {fix}")


def test_every_suggested_field_exists():
    command_line.check_fields(
        [
            f"--config.{command_line.nearest_field(name)}=1"
            for name in command_line.FIELD_ALIASES
        ]
    )


def test_the_config_comes_before_its_fields():
    assert command_line.in_order(
        [
            *("--config.epochs=3", "--mode=config", "--config.seed", "-1"),
            *("--noconfig.model.batch_norm", "--config", "smoke", "train"),
            "--config.model.batch_norm",
        ]
    ) == [
        *("--mode=config", "--config=configs/smoke.py", "train"),
        *("--config.epochs=3", "--config.seed", "-1"),
        *("--noconfig.model.batch_norm", "--config.model.batch_norm"),
    ]


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("smoke", "configs/smoke.py"),
        ("smoke.py", "configs/smoke.py"),
        ("configs/smoke", "configs/smoke.py"),
        ("configs/smoke.py", "configs/smoke.py"),
        ("stem32:10ep", "configs/stem32.py:10ep"),
        ("ablations:ladder/ema", "configs/ablations.py:ladder/ema"),
    ],
)
def test_a_short_name_is_a_config_of_the_project(value, file):
    assert command_line.find_config(value) == file


def test_a_short_name_works_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "smoke.py"
    assert command_line.find_config("smoke").endswith("/configs/smoke.py")
    own.touch()
    assert command_line.find_config("smoke.py:a") == "smoke.py:a"


@pytest.mark.parametrize("value", ["smok", "configs/smok.py", "nothing", ""])
def test_an_absent_config_names_the_nearest(value):
    with pytest.raises(errors.ConfigError) as caught:
        command_line.find_config(value)
    assert "smoke" in str(caught.value)
