"""The comparison of several runs: table and figures."""

import json

import pytest

from job import errors
from job.output import ablation
from job.report import comparison, comparison_plots
from job.storage.workdir import ABLATION, FAILURE


def test_what_a_line_had_cost():
    result = {"train_tflop": 5.0, "train_steps": 500}
    run = comparison.EndedRun("a", result, {}, [])
    assert comparison.cost_of(run, {"step": 100, "train_tflop": 0.7}) == 0.7
    # An earlier version's.
    assert comparison.cost_of(run, {"step": 100}) == 1.0
    assert (
        comparison.cost_of(comparison.EndedRun("a", None, {}, []), {"step": 1})
        is None
    )


def test_seconds_are_counted_up_to_the_evaluation_itself():
    lines = [
        {"split": "train", "step": 100, "images_per_second": 100.0},
        {"split": "test", "step": 150, "accuracy": 0.5},
        {"split": "train", "step": 200, "images_per_second": 10.0},
        {"split": "test", "step": 200, "accuracy": 0.6},
    ]
    run = comparison.EndedRun("a", {"x": 1}, {"global_batch_size": 10}, lines)
    assert comparison.seconds_to(run, 0.4) == pytest.approx(10 + 50)
    assert comparison.seconds_to(run, 0.55) == pytest.approx(10 + 100)
    assert comparison.seconds_to(run, 0.7) is None


@pytest.mark.parametrize("cumulative", [["naive", "lost"], []])
def test_the_report_compares_variants(tmp_path, monkeypatch, cumulative):
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
    drawn = []
    draw = comparison_plots.draw_waterfall

    def draw_and_record(variants, *args, **kwargs):
        drawn.extend(variants)
        draw(variants, *args, **kwargs)

    monkeypatch.setattr(comparison_plots, "draw_waterfall", draw_and_record)
    table = comparison.write_report([tmp_path]).splitlines()
    # A side branch is not part of the waterfall.
    assert drawn == (cumulative or ["naive", "recipe", "lost"])
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
        comparison.write_report([tmp_path / "naive"])
