"""Tests of the checks of a run's metrics."""

import math

from configs import smoke
from job.diagnose import from_run
from job.output import metrics
from tests.support.findings import assert_finding, make_settings

CONFIG = smoke.get_config()


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


def check_diverged(lines, result, failure=()):
    run = make_settings(CONFIG, {"optimizer.peak_learning_rate": 0.4})
    return from_run.check_diverged(run, lines, result, dict(failure))


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


def test_a_run_that_ended_with_exit_code_5_is_found():
    # The loop ends before it writes a line with the loss.
    failure = {"error": "the loss of step 7 is not finite"}
    found = check_diverged([line(5, 2.0, 0.1)], {}, failure)
    assert_finding(found, "diverged")
    assert "step 7" in found.evidence


PLAIN = {
    "augment.flip": "none",
    "augment.translate": 0.0,
    "augment.cutout_pixels": 0.0,
}


def test_overfitting_is_found():
    def check(train, test, **changes):
        scores = from_run.Scores(125, train, test)
        return from_run.check_gap(make_settings(CONFIG, changes), scores)

    found = check(0.99, 0.77, **PLAIN)
    assert_finding(found, "memorized")
    assert "augmentation is off" in found.title
    assert "augmentation is off" not in check(0.99, 0.77).title
    assert not check(0.93, 0.87)


def test_underfitting_is_found_and_says_what_the_budget_reaches():
    changes = {"model.width": 0.25, "global_batch_size": 256}
    run = make_settings(CONFIG, changes, is_synthetic=False)
    lines = [line(step, 2.0, step / 500) for step in range(0, 130, 10)]

    def check(accuracy):
        scores = from_run.Scores(125, accuracy, accuracy - 0.05)
        return from_run.check_underfit(run, scores, lines)

    found = check(0.6)
    assert_finding(found, "underfit")
    assert "still rising" in found.evidence
    assert "84.9% after 9 epochs" in found.evidence
    assert check(0.9) is None
    run = make_settings(CONFIG, changes)
    assert check(0.6) is None


def test_heavy_augmentation_of_a_run_that_learned_little_is_found():
    one = {**PLAIN, "augment.mixup_alpha": 1.0}
    two = {**one, "augment.cutmix_probability": 1.0}

    def check(accuracy, changes):
        scores = from_run.Scores(125, accuracy, accuracy)
        run = make_settings(CONFIG, changes)
        return from_run.check_over_augmented(run, scores)

    assert_finding(check(0.7, two), "over_augmentation")
    assert check(0.98, two) is None
    assert check(0.7, one) is None


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
