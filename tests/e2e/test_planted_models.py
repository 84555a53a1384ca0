"""Keras models with one mistake each, trained for real, saved and diagnosed.

    make test-diagnose DATA=DIR             # all of them
    make test                               # two of them

The first finding must name the planted mistake, and a sound model has none.
"""

import os
import time

import pytest

from job.data import sources
from job.diagnose import keras_file, keras_model
from job.diagnose.report_builder import ReportBuilder
from tests.support.jobs import from_environment
from tests.support.planted_models import CASES

ALL = os.environ.get("PLANTED") == "all"


@pytest.fixture(scope="module")
def data(cifar10_dir):
    return sources.load("binary", str(cifar10_dir))


# A busy machine takes several times as long.
@pytest.mark.timeout(1800)
# Keras warns about some of the mistakes, and about an optimizer without state.
@pytest.mark.filterwarnings("ignore:.*from_logits:UserWarning")
@pytest.mark.filterwarnings("ignore:Skipping variable loading:UserWarning")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name) for case in CASES if ALL or case.is_fast],
)
def test_first_finding_is_the_planted_mistake(case, data, tmp_path):
    if case.needs_weights:
        from_environment("VGG16_WEIGHTS")
    start = time.perf_counter()
    case.train(data.train).save(tmp_path / "model.keras")
    trained = time.perf_counter()
    builder = ReportBuilder(lambda: None, seconds=60.0)
    model = keras_file.load(tmp_path / "model.keras")
    keras_model.check_model(
        builder, model, data.test, data.train, num_classes=data.num_classes
    )
    report = builder.report()
    seconds = time.perf_counter() - trained
    first = report.findings[0].check if report.findings else None
    print(
        f"\n| {case.name} | {case.first} | {first} |"
        f" {trained - start:.0f} | {seconds:.0f} |"
    )
    assert first == case.first, f"\n{report}"
