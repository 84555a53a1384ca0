"""Tests of examples/, which a user copies: they run."""

import json
import pathlib

import numpy as np
import pytest

from configs import smoke
from examples import cifar100
from job import errors, train
from job.diagnose import diagnosis
from job.diagnose.finding import Report
from job.modes import evaluate
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


def test_another_data_set_trains(tmp_path):
    write_cifar100(tmp_path, images=200)
    data = cifar100.load(tmp_path)
    assert data.train.images.shape == (200, 32, 32, 3)
    assert data.train.labels.max() == 99
    config = smoke.get_config().unlock()
    config.model.width = 0.0625
    config.steps = 4
    workdir = Workdir(tmp_path / "run")
    result = train.train_and_evaluate(config, workdir, StopRequest(), data=data)
    assert result["data_source"] == "cifar100"
    assert result["train_steps"] == 4
    assert (tmp_path / "run/report.html").exists()
    # The config names another data set.
    with pytest.raises(errors.ResumeError, match="Fix: .* add a data source"):
        evaluate.evaluate_checkpoint(workdir)
    with pytest.raises(errors.ResumeError, match="Fix: .* add a data source"):
        diagnosis.diagnose(config, workdir, StopRequest())
