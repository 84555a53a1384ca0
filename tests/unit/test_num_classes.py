"""Data set of 3 classes, from training to the diagnosis of its run."""

import dataclasses

import numpy as np
import pytest

from configs import naive
from job import build, train
from job import trained as trained_lib
from job.config import run_config
from job.data import dataset, synthetic
from job.diagnose import diagnosis, finding
from job.output import predictions
from job.storage.workdir import DIAGNOSE, PREDICTIONS, Workdir
from job.supervision.preemption import StopRequest

NAMES = ("disc", "ring", "crescent")


def of_three_classes(split):
    return split.take(np.flatnonzero(split.labels < len(NAMES)))


@pytest.fixture
def three_classes(monkeypatch):
    """Limits the synthetic data set to 3 of its classes."""
    load = build.load_data

    def load_three(*args):
        data = load(*args)
        return dataclasses.replace(
            data,
            train=of_three_classes(data.train),
            test=of_three_classes(data.test),
            class_names=NAMES,
        )

    monkeypatch.setattr(build, "load_data", load_three)


@pytest.fixture
def config():
    """Returns a config too narrow to learn, so that the run has findings."""
    config = naive.get_config().unlock()
    config.update_from_flattened_dict(
        {
            "data.source": "synthetic",
            "data.synthetic_train_images": 640,
            "data.synthetic_test_images": 100,
            "global_batch_size": 64,
            "steps": 4,
            "log_every_steps": 2,
            "precision": "float32",
            "model.width": 0.02,
            "model.init": "torch",
            "model.head_units": (),
        }
    )
    return config


def test_run_and_diagnosis_of_three_classes(three_classes, config, tmp_path):
    train.train_and_evaluate(config, Workdir(tmp_path), StopRequest())
    found = predictions.load(tmp_path / PREDICTIONS)
    assert found.probabilities.shape == (30, 3)
    assert found.class_names == NAMES
    assert found.confusion().shape == (3, 3)

    trained = trained_lib.load_trained(Workdir(tmp_path))
    assert trained.class_names == NAMES
    assert trained.network.outputs[0].shape == (None, 3)

    report = diagnosis.diagnose(
        run_config.load(Workdir(tmp_path)),
        Workdir(tmp_path),
        StopRequest(),
        seconds=600.0,
    )
    text = finding.to_text(report)
    assert "the loss stays at ln 3" in text
    assert "guessing gives ln 3 = 1.099" in text
    assert "after 4 of 4 steps" in report.summary
    for line in (text, (tmp_path / DIAGNOSE).read_text()):
        assert "ln 10" not in line
    assert not {"labels", "balance"} & {each.check for each in report.findings}


def test_classes_of_a_run_without_predictions_are_those_of_its_source(tmp_path):
    names = trained_lib.load_class_names(tmp_path, "synthetic")
    assert names == tuple(synthetic.SHAPES)
    assert trained_lib.load_class_names(tmp_path, "auto") == dataset.CLASS_NAMES
