"""Tests that the examples, which a user copies, run."""

import json
import pathlib
import re

import numpy as np
import pytest

from configs import smoke, stem32
from examples import cifar100
from job import errors
from job.diagnose import diagnosis
from job.diagnose.finding import Report
from job.modes import evaluate
from job.output import progress
from job.storage.workdir import Workdir
from job.supervision.preemption import StopRequest
from tests.support.jobs import ROOT


def test_the_notebook_runs():
    notebook = json.loads((ROOT / "examples/packages.ipynb").read_text())
    cells = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert len(cells) > 3
    assert names["last"] < names["first"]
    report = names["report"]
    assert isinstance(report, Report)
    assert report.findings[0].check == "loss"


def write_cifar100(folder: pathlib.Path, images: int) -> None:
    """Writes files in the layout of CIFAR-100's binary version."""
    rng = np.random.default_rng(0)
    for name in ("train.bin", "test.bin"):
        records = rng.integers(0, 256, (images, 2 + 3072), dtype=np.uint8)
        records[:, 0] %= 20
        records[:, 1] = np.arange(images) % 100
        records.tofile(folder / name)
    names = "\n".join(f"class_{i}" for i in range(100))
    (folder / "fine_label_names.txt").write_text(names)


def test_another_data_set_trains(tmp_path, monkeypatch, capsys):
    write_cifar100(tmp_path, images=200)
    data = cifar100.load(tmp_path)
    assert data.train.images.shape == (200, 32, 32, 3)
    assert data.train.labels.max() == 99
    config = smoke.get_config().unlock()
    config.model.width = 0.0625
    config.steps = 4
    # The handlers of signals and logs would remain after the test.
    monkeypatch.setattr(StopRequest, "install", lambda self: None)
    monkeypatch.setattr(progress, "log_to_stderr", lambda: None)
    monkeypatch.setattr(stem32, "get_config", lambda variant: config)
    workdir = Workdir(tmp_path / "run")
    assert cifar100.main(str(tmp_path), str(workdir.local)) == 0
    assert re.match(r"test accuracy \d+\.\d\d%", capsys.readouterr().out)
    result = json.loads((workdir.local / "result.json").read_text())
    assert result["data_source"] == "cifar100"
    assert result["train_steps"] == 4
    assert (tmp_path / "run/report.html").exists()
    assert cifar100.main(str(tmp_path / "none"), str(tmp_path / "other")) == 3
    assert "fine_label_names.txt" in capsys.readouterr().err
    # The config names another data set.
    with pytest.raises(
        errors.ResumeError, match="Python code passes, add a data source"
    ):
        evaluate.evaluate_checkpoint(workdir)
    with pytest.raises(
        errors.ResumeError, match="Python code passes, add a data source"
    ):
        diagnosis.diagnose(config, workdir, StopRequest())
