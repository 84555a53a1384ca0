"""Fields of the benchmark's report, without any assertion on times."""

import json
import math
import threading

import pytest

from job import build, errors
from job.checkpoint.saver import THREAD
from job.model import flops, spec
from job.modes import benchmark, measurements
from job.storage import disk
from job.supervision import preemption


def test_report_has_step_job_augmentation_and_input(config, tmp_path):
    outcome = benchmark.run(
        config,
        str(tmp_path / "bench"),
        preemption.StopRequest(),
        upload_seconds=60.0,
        rounds=2,
        segment_seconds=0.1,
    )
    (table,) = outcome.output
    report = json.loads((tmp_path / "bench" / "benchmark.json").read_text())
    for name in ("step", "job", "augment", "input", "evaluate"):
        spread = report[f"{name}_images_per_second"]
        assert 0 < spread["median"] < 1e9
        assert f"\n{name} " in table
    assert report["save_every_steps"] == 5
    assert report["rounds"] == 2
    assert report["augment_share_of_step"]["median"] > 0
    assert report["model_flop_utilization"]["median"] > 0
    assert report["matrix_product_tflops"]["median"] > 0
    assert report["compile_seconds"] > 0
    # A process with TensorFlow needs more than 100 MB.
    assert report["peak_memory_bytes"]["host"] > 1e8
    # The timed saves are removed.
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "benchmark.json"
    }


def test_a_stop_between_two_rounds_closes_and_removes_everything(
    config, tmp_path
):
    class StopsAtTheFirstRound(preemption.StopRequest):
        def check(self):
            raise errors.PreemptedError("stopped")

    config.model.width = 0.0625
    before = {*threading.enumerate()}
    place = disk.Disk(tmp_path / "saves")
    with pytest.raises(errors.PreemptedError):
        measurements.measure(
            config, StopsAtTheFirstRound(), storage=place, segment_seconds=0.05
        )
    for thread in {*threading.enumerate()} - before:
        if thread.name == THREAD:
            thread.join(10)
            assert not thread.is_alive()
    assert not place.find()


def test_several_nodes_are_refused(config):
    config.distribute.strategy = "multi_worker"
    with pytest.raises(errors.ConfigError, match="measures one node"):
        benchmark.run(
            config, None, preemption.StopRequest(), upload_seconds=60.0
        )


def test_a_frozen_base_is_measured_on_its_features(config):
    """A run extracts the features once and trains only the head."""
    config.model.batch_norm = False
    config.model.width = 0.0625
    config.augment.flip = "none"
    config.augment.translate = 0.0
    config.augment.cutout_pixels = 0.0
    for block in config.transfer.unfreeze_epochs:
        config.transfer.unfreeze_epochs[block] = math.inf
    frozen = measurements.measure(
        config, preemption.StopRequest(), rounds=2, segment_seconds=0.05
    )
    network = build.create_model(config, "float32", num_classes=10)
    whole = flops.image_gflop(network, 32, spec.BLOCK_NAMES).train
    assert frozen.step_tflop < config.global_batch_size * whole / 1e3 / 1000
