"""Tests of the metadata of a run."""

from job.config import serialization
from job.training.history import (
    BEST_BY,
    METRICS_TENSOR,
    History,
    pack_metrics,
    pop_metrics,
)


def create(config, **fields):
    return History(serialization.flatten(config), "00c0ffee", **fields)


def test_every_start_is_added_and_the_oldest_are_dropped(config):
    history = create(config)
    for step in range(120):
        history.step = step
        history.begin(replicas=2, train_steps=200)
    assert [start["step"] for start in history.starts] == [*range(20, 120)]
    assert history.starts[-1]["replicas"] == 2


def test_changed_length_is_recorded_once(config, caplog):
    history = create(config)
    for train_steps in (10, 10, 20, 20):
        history.begin(replicas=1, train_steps=train_steps)
    assert history.planned_steps() == [10, 20]
    assert caplog.text.count("from 10 to 20 steps") == 1


def test_a_checkpoint_has_what_a_resume_needs(config):
    history = create(config, validation=(20, 0.5))
    kept = history.to_metadata(20, 1)
    assert kept.keys() >= History.KEYS
    assert kept[BEST_BY] == 0.5
    # An accuracy of another step is not stored.
    assert history.to_metadata(25, 1)[BEST_BY] is None


def test_a_checkpoint_does_not_change_with_the_run(config):
    history = create(config)
    history.begin(replicas=1, train_steps=10)
    kept = history.to_metadata(5, 1)
    history.rollbacks.append({"bad_step": 7, "to_step": 5, "factor": 0.5})
    history.starts[0]["replicas"] = 8
    assert kept["rollbacks"] == []
    assert kept["starts"][0]["replicas"] == 1


def test_the_metrics_log_is_a_tensor_that_a_resume_takes():
    for lines in ([], ['{"step": 1}'], ['{"step": 1}', '{"step": 2}']):
        tensors = {"step": 1, METRICS_TENSOR: pack_metrics(lines)}
        assert pop_metrics(tensors) == lines
        assert tensors == {"step": 1}
    assert pop_metrics(tensors) is None
