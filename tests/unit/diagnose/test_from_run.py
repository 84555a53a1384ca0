"""Tests of the checks of a run's metrics."""

import math

from job.diagnose import from_run
from job.output import metrics
from tests.support.findings import assert_finding


def line(step, loss, accuracy, split="train"):
    """Returns a line of metrics.jsonl."""
    return {
        "step": step,
        "epoch": step / 100,
        "split": split,
        "loss": loss,
        "accuracy": accuracy,
    }


def check_stuck(lines, *, num_classes=10):
    return from_run.check_metrics_stuck(lines, num_classes=num_classes)


def check_diverged(lines, result):
    return from_run.check_diverged(lines, result, rate=0.4, batch_norm=True)


def test_loss_at_chance_is_found():
    found = check_stuck([line(500, 2.3031, 0.1)])
    assert_finding(found, "stuck_at_chance")
    assert not check_stuck([line(500, 2.25, 0.14)])
    # The warm-up may be longer than this.
    assert not check_stuck([line(50, 2.3031, 0.1)])


def test_loss_at_chance_depends_on_the_number_of_classes():
    found = check_stuck([line(500, 1.0987, 0.33)], num_classes=3)
    assert_finding(found, "stuck_at_chance")
    assert "stays at ln 3" in found.title
    assert "guessing gives ln 3 = 1.0986" in found.evidence
    assert not check_stuck([line(500, 1.0987, 0.6)], num_classes=10)


def test_null_loss_of_the_log_is_found(tmp_path):
    log = metrics.MetricsLog(tmp_path, first_step=0)
    log.write(line(5, math.nan, 0.1))
    log.close()
    lines = from_run.complete_lines(metrics.read(tmp_path))
    assert_finding(check_diverged(lines, {}), "diverged")


def test_nan_and_rollbacks_are_found():
    found = check_diverged([line(5, math.nan, 0.1)], {})
    assert_finding(found, "diverged")
    assert "--config.optimizer.peak_learning_rate=0.04" in found.flags
    found = check_diverged([line(5, 2.0, 0.1)], {"rollbacks": 2})
    assert_finding(found, "diverged")
    assert not check_diverged([line(5, 2.0, 0.1)], {"rollbacks": 0})


def test_overfitting_is_found():
    found = from_run.check_gap(
        train_accuracy=0.99, test_accuracy=0.77, augmented=False
    )
    assert_finding(found, "memorized")
    assert not from_run.check_gap(
        train_accuracy=0.93, test_accuracy=0.87, augmented=True
    )


def test_underfitting_is_found_with_the_accuracy_of_the_budget():
    def check(accuracy, **changes):
        options = {"steps": 125, "epochs": 0.64, "width": 0.25, **changes}
        lines = [line(step, 2.0, step / 500) for step in range(0, 130, 10)]
        return from_run.check_underfit(
            lines,
            plain_accuracy=accuracy,
            test_accuracy=accuracy - 0.05,
            train_images=4000,
            frozen=False,
            **options,
        )

    found = check(0.6)
    assert_finding(found, "underfit")
    assert "still rising" in found.evidence
    assert "80.6% after 5 epochs" in found.evidence
    assert check(0.9) is None


def test_heavy_augmentation_of_a_run_that_learned_little_is_found():
    def check(accuracy, heavy):
        return from_run.check_over_augmented(
            plain_accuracy=accuracy, test_accuracy=accuracy, heavy=heavy
        )

    assert_finding(check(0.7, ["a", "b"]), "over_augmentation")
    assert check(0.98, ["a", "b"]) is None
    assert check(0.7, ["a"]) is None


def test_wrong_moving_statistics_are_found():
    def check(by_running):
        return from_run.check_running_moments(
            by_batch=0.8, by_running=by_running, images=250
        )

    assert_finding(check(0.1), "running_moments")
    assert check(0.79) is None


def test_incomplete_lines_are_left_out():
    good = line(1, 2.0, 0.1)
    assert from_run.complete_lines([{"step": 1, "split": "x"}, good]) == [good]
