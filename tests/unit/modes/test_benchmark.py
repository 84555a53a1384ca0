"""The benchmark runs, and reports what it says it reports; no timing here."""

import json

from job.modes import benchmark
from job.supervision import preemption


def test_it_reports_step_job_augmentation_and_input(config, tmp_path):
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
    # No process with TensorFlow in it does with less than 100 MB.
    assert report["peak_memory_bytes"]["host"] > 1e8
    assert [p.name for p in tmp_path.rglob("*")] == ["bench", "benchmark.json"]
