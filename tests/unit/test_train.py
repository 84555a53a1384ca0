"""Training in one process, from a config to a result."""

import dataclasses
import json
import math
import shutil

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from configs import smoke
from job import build, errors, train
from job.checkpoint import store
from job.config import resume, serialization
from job.modes import evaluate
from job.output import metrics, results
from job.storage.workdir import METRICS, Workdir
from job.supervision import preemption, startup
from job.training import plan
from job.training.history import pop_metrics


def run(workdir, config):
    return train.train_and_evaluate(
        config, Workdir(workdir), preemption.StopRequest()
    )


def run_until(step, workdir, config, on_call=lambda loop: None):
    """Trains with a stop request once `step` steps are completed."""
    stop = preemption.StopRequest()

    def request_stop(loop):
        on_call(loop)
        stop.requested = loop.step >= step

    train.train_and_evaluate(
        config, Workdir(workdir), stop, on_call=request_stop
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the workdir and result of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run(workdir, smoke.get_config())


def final_tensors(workdir):
    found, tensors = store.CheckpointStore(
        workdir / "checkpoints"
    ).restore_newest()
    pop_metrics(tensors)
    return found, {name: value.tobytes() for name, value in tensors.items()}


def without_timings(lines):
    return [
        {k: v for k, v in line.items() if k != "images_per_second"}
        for line in lines
    ]


def test_the_result_has_every_promised_field(finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    promised = (
        "test_accuracy test_accuracy_tta test_loss train_steps"
        " images_per_second train_seconds compile_seconds params replicas"
        " global_batch_size precision data_source seed resumes config_hash"
    )
    assert set(promised.split()) <= result.keys()
    assert result["images_scored"] == 200
    assert (result["train_steps"], result["resumes"]) == (20, 0)
    assert all(
        math.isfinite(v) for v in result.values() if isinstance(v, float)
    )


def test_the_record_has_each_logged_step_once(finished):
    workdir, result = finished
    lines = metrics.read(workdir)
    steps = [(line["split"], line["step"]) for line in lines]
    wanted = [("train", s) for s in (5, 10, 15, 20)]
    assert sorted(steps) == sorted([*wanted, ("test", 10), ("test", 20)])
    assert lines[-1]["accuracy"] == result["test_accuracy"]
    fields = [
        "step",
        "epoch",
        "split",
        "loss",
        "accuracy",
        "learning_rate",
        "images_per_second",
        "train_tflop",
    ]
    assert all(list(line) == fields for line in lines)
    assert lines[-1]["train_tflop"] == result["train_tflop"]
    for line in lines:
        share = line["step"] / 20
        assert line["train_tflop"] == pytest.approx(
            share * result["train_tflop"], abs=1e-3
        )


def test_the_workdir_holds_what_was_promised(finished):
    workdir, _ = finished
    saved = json.loads((workdir / "config.json").read_text())
    fields = serialization.flatten(ml_collections.ConfigDict(saved))
    assert fields == serialization.flatten(smoke.get_config())
    assert store.CheckpointStore(workdir / "checkpoints").committed_steps() == [
        15,
        20,
    ]
    found, _ = final_tensors(workdir)
    assert found.run["config_hash"] == resume.fingerprint(fields)
    assert (workdir / "augmentation.png").read_bytes()[:4] == b"\x89PNG"
    assert found.run["versions"]["tensorflow"] == tf.__version__


def test_the_events_repeat_the_record(finished):
    workdir, _ = finished
    (path,) = (workdir / "events").glob("*.tfevents.*")
    seen = set()
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            seen.add((value.tag, event.step))
    assert ("train/loss", 5) in seen
    assert ("test/accuracy", 20) in seen
    assert len([tag for tag, _ in seen if tag == "train/learning_rate"]) == 4


def test_a_stop_and_a_resume_change_no_byte(finished, tmp_path):
    whole, _ = finished
    config = smoke.get_config()
    config.steps_per_loop = 1
    with pytest.raises(errors.PreemptedError, match="up to step 7"):
        run_until(7, tmp_path, config)
    result = run(tmp_path, smoke.get_config())
    assert result["resumes"] == 1
    assert result["planned_steps"] == [20]
    assert final_tensors(tmp_path)[1] == final_tensors(whole)[1]
    assert without_timings(metrics.read(tmp_path)) == without_timings(
        metrics.read(whole)
    )


def test_another_recipe_in_the_same_workdir_is_refused_by_name(finished):
    workdir, _ = finished
    before = sorted(workdir.rglob("*"))
    config = smoke.get_config()
    config.optimizer.momentum = 0.8
    with pytest.raises(
        errors.ResumeError, match=r"optimizer\.momentum: 0\.9 -> 0\.8"
    ):
        run(workdir, config)
    config = smoke.get_config()
    config.data.synthetic_train_images = 650
    with pytest.raises(errors.ResumeError, match="train_images: 640 -> 650"):
        run(workdir, config)
    config = smoke.get_config()
    config.epochs = 1.0
    with pytest.raises(errors.ResumeError, match="after the last step, 10"):
        run(workdir, config)
    assert sorted(workdir.rglob("*")) == before


def test_divergence_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    config = smoke.get_config()
    config.optimizer.peak_learning_rate = 1e30
    config.optimizer.warmup_epochs = 0.0
    config.checkpoint.every_steps = 1
    config.steps_per_loop = 1
    with pytest.raises(errors.DivergedError, match=r"step \d+ is not finite"):
        run(tmp_path, config)
    assert not (tmp_path / "result.json").exists()
    for _, tensors in [
        store.CheckpointStore(tmp_path / "checkpoints").restore_newest()
    ]:
        assert tensors["first_bad_step"] == -1


@pytest.mark.parametrize(
    ("seconds", "held_out", "wanted"),
    [
        (3600.0, 0.0, [20]),
        # Every scored checkpoint is saved, so that the best one can be kept.
        (3600.0, 0.1, [9, 18]),
    ],
)
def test_automatic_saves_are_some_time_apart(
    tmp_path, monkeypatch, seconds, held_out, wanted
):
    create_plan = build.create_plan

    def create_plan_with_interval(*args):
        return dataclasses.replace(
            create_plan(*args), checkpoint_seconds=seconds
        )

    monkeypatch.setattr(build, "create_plan", create_plan_with_interval)
    config = smoke.get_config()
    config.checkpoint.every_steps = 0
    config.checkpoint.keep = 9
    config.evaluate.every_epochs = 1.0
    config.data.validation_fraction = held_out
    run(tmp_path, config)
    saved = store.CheckpointStore(tmp_path / "checkpoints").committed_steps()
    assert saved == wanted


def test_a_phase_after_the_last_step_gives_a_warning():
    config = smoke.get_config()
    assert not [*plan.unreached_phases(build.create_plan(config, 640))]
    config.model.progressive_sizes = (16,)
    config.model.progressive_epochs = (2.0,)
    (size,) = plan.unreached_phases(build.create_plan(config, 640))
    assert "Omitting the phase from step 20 on (32 pixels" in size


def rollback_config(replicas=0):
    """Returns a config of 20 steps with a checkpoint every 5 steps."""
    config = smoke.get_config()
    config.checkpoint.on_nonfinite = "rollback"
    config.distribute.logical_devices = replicas
    config.steps_per_loop = 1
    return config


def plant_nan(loop, highest_good_factor=0.3):
    """Sets a weight to NaN at step 12, unless the learning rate is low."""
    factor = float(loop.state.learning_rate_factor.numpy())
    if loop.step == 12 and factor > highest_good_factor:
        weight = loop.state.trainable[0]
        weight.assign(weight.read_value() * math.nan)


def test_a_rollback_halves_the_learning_rate(tmp_path):
    """Two rollbacks are needed, and a resume after them changes nothing."""
    loops = []

    def watch(loop):
        loops.append(loop)
        plant_nan(loop)

    workdirs = tmp_path / "unstopped", tmp_path / "stopped"
    result = train.train_and_evaluate(
        rollback_config(2),
        Workdir(workdirs[0]),
        preemption.StopRequest(),
        on_call=watch,
    )
    # A rollback does not compile the step again.
    steps = loops[-1].train_steps
    assert steps.experimental_get_tracing_count() == 1
    with pytest.raises(errors.PreemptedError, match="up to step 17"):
        run_until(17, workdirs[1], rollback_config(2), plant_nan)
    resumed = run(workdirs[1], rollback_config(2))
    found, tensors = final_tensors(workdirs[0])
    assert final_tensors(workdirs[1])[1] == tensors
    assert (result["rollbacks"], resumed["rollbacks"]) == (2, 2)
    assert (result["resumes"], resumed["resumes"]) == (0, 1)
    assert found.run["rollbacks"] == [
        {"bad_step": 12, "to_step": 10, "factor": 0.5},
        {"bad_step": 12, "to_step": 10, "factor": 0.25},
    ]
    lines = metrics.read(workdirs[0])
    assert without_timings(metrics.read(workdirs[1])) == without_timings(lines)
    keys = [(line["step"], line["split"]) for line in lines]
    assert len(keys) == len(set(keys)) == 6
    plan = loops[0].plan
    for line in lines:
        if line["split"] == "train":
            rate = float(plan.learning_rate(tf.constant(line["step"] - 1)))
            factor = 1.0 if line["step"] <= 10 else 0.25
            assert line["learning_rate"] == pytest.approx(rate * factor)


def test_three_rollbacks_are_tried(tmp_path):
    with pytest.raises(
        errors.DivergedError, match=r"step 12 .* after 3 rollbacks"
    ):
        train.train_and_evaluate(
            rollback_config(),
            Workdir(tmp_path),
            preemption.StopRequest(),
            on_call=lambda loop: plant_nan(loop, highest_good_factor=0.0),
        )
    assert final_tensors(tmp_path)[0].step == 10


def test_an_initial_state_that_is_not_finite_ends_as_diverged(
    tmp_path, monkeypatch
):
    """A rollback is impossible without a checkpoint."""
    create_state = build.create_state

    def create_bad_state(*args, **kwargs):
        state = create_state(*args, **kwargs)
        weight = state.trainable[0]
        weight.assign(weight.read_value() * math.nan)
        return state

    monkeypatch.setattr(build, "create_state", create_bad_state)
    with pytest.raises(errors.DivergedError, match="no checkpoint was saved"):
        run(tmp_path, rollback_config())


def test_an_early_divergence_rolls_back_to_the_start(tmp_path):
    config = rollback_config()
    config.optimizer.peak_learning_rate = 1e30
    config.optimizer.warmup_epochs = 0.0
    config.steps = 5
    with pytest.raises(
        errors.DivergedError, match="after 3 rollbacks; the checkpoint of step"
    ):
        run(tmp_path, config)
    found, tensors = store.CheckpointStore(
        tmp_path / "checkpoints"
    ).restore_newest()
    assert found.step == 0
    assert all(np.isfinite(value).all() for value in tensors.values())
    # A lower learning rate in the same workdir gives another result.
    config.optimizer.peak_learning_rate = 0.05
    with pytest.raises(errors.ResumeError, match="peak_learning_rate"):
        run(tmp_path, config)


def test_out_of_memory_names_the_fields_to_reduce(finished, tmp_path):
    config = smoke.get_config()
    fields = serialization.flatten(config)
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when\nallocating"),
        MemoryError("Unable to allocate 3 TiB"),
    ):
        with (
            pytest.raises(
                errors.OutOfMemoryError, match=r"global_batch_size \(now 64\)"
            ),
            startup.translate_out_of_memory(fields),
        ):
            raise error


def test_evaluate_scores_what_training_scored(finished):
    workdir, result = finished
    scores = evaluate.evaluate_checkpoint(Workdir(workdir))
    assert scores["step"] == 20
    assert scores["accuracy"] == result["test_accuracy"]
    assert scores["accuracy_tta"] == result["test_accuracy_tta"]
    assert scores["images"] == 200


def test_evaluate_runs_on_the_devices_of_the_machine(finished, tmp_path):
    """The config names the devices of the training."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    fields = json.loads((workdir / "config.json").read_text())
    fields["distribute"]["require_gpus"] = 8
    (workdir / "config.json").write_text(json.dumps(fields))
    scores = evaluate.evaluate_checkpoint(Workdir(workdir))
    assert scores["accuracy"] == finished[1]["test_accuracy"]


def test_evaluate_without_a_run_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"no config\.json"):
        evaluate.evaluate_checkpoint(Workdir(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(errors.ConfigError, match=r"the value is \[1\], not an"):
        evaluate.evaluate_checkpoint(Workdir(tmp_path))


def test_a_finished_run_is_recognized_without_its_data(finished):
    workdir, result = finished
    fields = serialization.flatten(smoke.get_config())
    assert results.finished(Workdir(workdir), fields) == result
    assert results.finished(Workdir(workdir), {**fields, "epochs": 3.0}) is None
    assert results.finished(Workdir(workdir), {**fields, "seed": 1}) is None
    other = {**fields, "data.source": "binary", "data.dir": "x"}
    assert results.finished(Workdir(workdir), other) is None


def test_a_finished_run_stays_finished_when_a_field_is_added(
    finished, tmp_path
):
    """Its config and its fingerprint lack the field."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    saved = json.loads((workdir / "config.json").read_text())
    del saved["optimizer"]["clip_norm"]
    older = serialization.flatten(saved)
    result = {**finished[1], "config_hash": resume.fingerprint(older)}
    (workdir / "config.json").write_text(json.dumps(saved))
    (workdir / "result.json").write_text(json.dumps(result))
    fields = serialization.flatten(smoke.get_config())
    assert results.finished(Workdir(workdir), fields) == result
    changed = {**fields, "optimizer.clip_norm": 1.0}
    assert results.finished(Workdir(workdir), changed) is None


def test_a_held_out_slice_is_scored_instead_of_the_test_images(tmp_path):
    config = smoke.get_config()
    config.data.validation_fraction = 0.25
    config.steps = 5
    result = run(tmp_path, config)
    assert result["images_scored"] == 160
    assert "validation_accuracy" in result
    assert "test_accuracy" not in result
    assert {line["split"] for line in metrics.read(tmp_path)} == {
        "train",
        "validation",
    }


def test_replicas_may_change_on_resume_and_the_change_is_recorded(tmp_path):
    """Trains on 1, then 2, then 1 replica, with equal batches.

    Compares one step only, because rounding errors grow from step to step.
    """
    config = smoke.get_config()
    config.distribute.sync_batch_norm = True
    # As in test_step.py, sums over replicas in the forward pass must have the
    # same shape in both strategies of a process.
    config.global_batch_size = 16
    config.steps = 12
    config.steps_per_loop = 1

    def run_on(replicas, workdir, step):
        config.distribute.logical_devices = replicas
        with pytest.raises(errors.PreemptedError):
            run_until(step, workdir, config)
        return final_tensors_of(workdir)

    def final_tensors_of(workdir):
        found, tensors = store.CheckpointStore(
            workdir / "checkpoints"
        ).restore_newest()
        pop_metrics(tensors)
        return found, tensors

    run_on(0, tmp_path / "run", 6)
    shutil.copytree(tmp_path / "run", tmp_path / "same")
    _, same = run_on(0, tmp_path / "same", 7)
    _, tensors = run_on(2, tmp_path / "run", 7)
    for name, value in same.items():
        np.testing.assert_allclose(tensors[name], value, rtol=1e-4, atol=1e-4)
    config.distribute.logical_devices = 0
    result = run(tmp_path / "run", config)
    assert (result["resumes"], result["replicas"]) == (2, 1)
    found, _ = final_tensors_of(tmp_path / "run")
    starts = [(s["step"], s["replicas"]) for s in found.run["starts"]]
    assert starts == [(0, 1), (6, 2), (7, 1)]
    assert {s["versions"]["tensorflow"] for s in found.run["starts"]} == {
        tf.__version__
    }


def test_an_extended_run_has_no_result_until_its_end(finished, tmp_path):
    whole, _ = finished
    shutil.copytree(whole, tmp_path / "run")
    assert (tmp_path / "run" / "predictions.npz").exists()

    config = smoke.get_config()
    config.steps = 25
    with pytest.raises(errors.PreemptedError):
        run_until(20, tmp_path / "run", config)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"result.json", "predictions.npz", "report.html"}


def test_a_checkpoint_holds_the_record_of_its_run(finished, tmp_path):
    whole, _ = finished
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / METRICS).write_bytes(b"damaged")
    config = smoke.get_config()
    config.steps = 25
    result = run(tmp_path / "run", config)
    assert result["planned_steps"] == [20, 25]  # The schedule changed.
    lines = without_timings(metrics.read(tmp_path / "run"))
    assert lines[: len(lines) - 2] == without_timings(metrics.read(whole))


def test_the_best_on_a_held_out_slice_is_kept(tmp_path):
    config = smoke.get_config()
    config.data.validation_fraction = 0.25
    config.evaluate.every_epochs = 0.5
    config.checkpoint.every_steps = 4
    run(tmp_path, config)
    scores = {
        line["step"]: line["accuracy"]
        for line in metrics.read(tmp_path)
        if line["split"] == "validation"
    }
    made = store.CheckpointStore(tmp_path / "checkpoints")
    kept = made.committed_steps()
    saved = {s: a for s, a in scores.items() if s % 4 == 0 or s == 15}
    best = max(saved, key=lambda s: (saved[s], s))
    assert best in kept
    assert set(sorted(saved)[-2:]) <= {*kept}
    assert len(kept) <= 3


def test_evaluation_is_the_same_on_1_and_2_replicas(finished):
    workdir, result = finished
    config = smoke.get_config()
    config.distribute.logical_devices = 2
    strategy = build.create_strategy(config)
    data = build.load_data(config)
    state = build.create_state(config, strategy, num_classes=data.num_classes)
    _, tensors = store.CheckpointStore(workdir / "checkpoints").restore_newest()
    pop_metrics(tensors)
    state.restore(tensors)
    evaluator = build.create_evaluator(
        config, strategy, data.test, num_classes=data.num_classes
    )
    scores = evaluator(state.evaluated())
    assert scores.accuracy == result["test_accuracy"]
    assert scores.loss == pytest.approx(result["test_loss"], rel=1e-5)
    assert scores.images == 200
