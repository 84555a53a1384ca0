"""Tests of the training step on one and several replicas."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from configs import augment_presets, smoke
from job import build
from job.data import dataset, sources
from job.training import step
from tests.support import collectives


@pytest.fixture(scope="module")
def data():
    return sources.load("synthetic", synthetic_train_images=640)


class Trainer:
    """Training without the files of a run."""

    def __init__(self, data, replicas=1, **changes):
        config = smoke.get_config()
        config.update_from_flattened_dict(changes)
        self.strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(replicas)]
        )
        plan = build.create_plan(config, len(data.train))
        self.state = build.create_state(
            config, self.strategy, num_classes=data.num_classes
        )
        self.steps = build.create_train_steps(
            config,
            self.strategy,
            self.state,
            plan,
            self.state.model,
            plan.phases[0],
        )
        self.create_batches = lambda: build.create_batches(
            config, self.strategy, data.train, first_step=0
        )
        self.batches = self.create_batches()

    def train(self, count):
        self.steps(self.batches, tf.constant(count))
        return self.state.snapshot()


# The learning rate is low, because float32 rounding may switch a ReLU. At a
# higher rate, the two runs would then diverge like any two runs whose weights
# differ (see docs/distributed.md).
SYNCED = {
    "distribute.sync_batch_norm": True,
    "global_batch_size": 16,
    "model.pooling": "avg",
    "optimizer.schedule": "constant",
    "optimizer.peak_learning_rate": 1e-4,
    "optimizer.warmup_epochs": 0.0,
}


def distance(one, other):
    return np.linalg.norm(one - other) / max(np.linalg.norm(one), 1e-12)


def farthest_change(one, two, count):
    """Trains both; returns the largest distance between changes of a tensor.

    A few ReLUs that switch cause at most 0.04 on two kinds of CPUs. Separate
    statistics per replica cause more than 1.
    """
    starts = one.state.snapshot(), two.state.snapshot()
    ends = one.train(count), two.train(count)
    assert ends[0].keys() == ends[1].keys()
    return max(
        distance(ends[0][name] - value, ends[1][name] - starts[1][name])
        for name, value in starts[0].items()
        if value.dtype == np.float32 and not name.startswith("window/")
    )


def test_1_and_2_replicas_agree_after_1_and_20_steps(data):
    one, two = Trainer(data, 1, **SYNCED), Trainer(data, 2, **SYNCED)
    start = one.state.snapshot()
    assert farthest_change(one, two, 1) < 0.1
    assert farthest_change(one, two, 19) < 0.1
    first, second = one.state.snapshot(), two.state.snapshot()
    assert first["step"] == 20
    assert abs(first["window/correct"] - second["window/correct"]) <= 1
    # The loss is the mean over the global batch.
    assert 2.0 < first["window/loss"] / 20 < 3.0
    # They differ without synchronized statistics.
    changes = {**SYNCED, "distribute.sync_batch_norm": False}
    one.state.restore(start)
    one.batches = one.create_batches()
    assert farthest_change(one, Trainer(data, 2, **changes), 1) > 0.3


STRONG = {
    f"augment.{field}": value
    for field, value in augment_presets.fields("strong").items()
}


def test_mixed_images_train_alike_on_1_and_2_replicas(data):
    """Mixes half of the pairs by CutMix and the others by mixup."""
    mixing = {"augment.cutmix_probability": 0.5, "augment.mixup_alpha": 1.0}
    changes = {**SYNCED, **STRONG, **mixing}
    one, two = Trainer(data, 1, **changes), Trainer(data, 2, **changes)
    assert farthest_change(one, two, 3) < 0.1
    first = one.state.snapshot()
    # Mixed labels give fractional hits.
    assert 0 < first["window/correct"] < 48
    assert first["window/correct"] % 1 > 0
    assert first["first_bad_step"] == -1


def test_replicas_stay_equal_and_sum_on_gpus_as_on_cpus(data):
    plain = Trainer(data, 2)
    for count in (1, 3):
        wanted = plain.train(count)
    with collectives.used_by_cpu_replicas():
        collective = Trainer(data, 2)
        for count in (1, 3):
            found = collective.train(count)
    graph = collective.steps.get_concrete_function(
        collective.batches, tf.constant(1)
    ).graph.as_graph_def()
    operations = {
        node.op
        for function in graph.library.function
        for node in function.node_def
    }
    assert "CollectiveReduceV2" in operations
    for name in wanted:
        np.testing.assert_array_equal(wanted[name], found[name], err_msg=name)
    for trainer in (plain, collective):
        for name, variable in trainer.state.variables().items():
            copies = [v.numpy() for v in variable.values]
            np.testing.assert_array_equal(copies[0], copies[1], err_msg=name)


def test_steps_per_call_change_no_byte(data):
    one, other = Trainer(data), Trainer(data)
    at_once = one.train(6)
    for count in (1, 2, 3):
        in_parts = other.train(count)
    for name, value in at_once.items():
        np.testing.assert_array_equal(value, in_parts[name], err_msg=name)
    # Calls of any length are compiled once.
    assert other.steps.experimental_get_tracing_count() == 1


PLAIN_SGD = {
    "augment.flip": "none",
    "augment.translate": 0.0,
    "augment.cutout_pixels": 0.0,
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.warmup_epochs": 0.0,
    "optimizer.schedule": "constant",
    "optimizer.label_smoothing": 0.0,
}


def test_a_weight_moves_by_its_gradient(data):
    """Compares one plain SGD step with the gradient of a tape."""
    trainer = Trainer(data, **PLAIN_SGD)
    network = trainer.state.model
    batch = next(iter(trainer.batches))
    with tf.GradientTape() as tape:
        logits, _ = network(batch.image, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch.label, logits
        )
        loss = tf.reduce_mean(losses)
    weights = [v.value for v in network.trainable_variables]
    gradients = tape.gradient(loss, weights)
    wanted = [
        w.numpy() - 0.05 * g.numpy()
        for w, g in zip(weights, gradients, strict=True)
    ]
    again = Trainer(data, **PLAIN_SGD)
    again.train(1)
    for variable, value in zip(again.state.trainable, wanted, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=2e-5)


def test_moving_statistics_and_averages_follow(data):
    plain = {
        "augment.flip": "none",
        "augment.translate": 0.0,
        "augment.cutout_pixels": 0.0,
    }
    trainer = Trainer(data, **plain)
    batch = next(iter(Trainer(data, **plain).batches))
    _, moments = trainer.state.model(batch.image, training=True)
    before = trainer.state.snapshot()
    after = trainer.train(1)
    running = trainer.state.model.non_trainable_variables
    for variable, moment in zip(running, moments, strict=True):
        name = f"model/{variable.path}"
        wanted = 0.9 * before[name] + 0.1 * moment.numpy()
        np.testing.assert_allclose(after[name], wanted, rtol=1e-3, atol=1e-4)
    # At step 0, the average keeps 0.1 of its old value.
    for name in ("block3_conv2_bn/moving_variance", "logits/kernel"):
        old, new = before[f"model/{name}"], after[f"model/{name}"]
        assert (old != new).any()
        np.testing.assert_allclose(
            after[f"ema/{name}"], old + 0.9 * (new - old), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_learns_with_float32_variables(data, precision):
    # Convolutions in float16 are slow on a CPU.
    small = {"model.width": 0.0625, "global_batch_size": 16}
    trainer = Trainer(data, precision=precision, **small)
    after = trainer.train(3)
    assert {v.dtype.name for v in after.values()} == {"float32", "int64"}
    assert after["first_bad_step"] == -1
    assert np.isfinite(after["window/loss"])
    if precision == "float16":  # It continues after an overflow.
        trainer.state.loss_scale["scale"].assign(2.0**30)
        before, after = after, trainer.train(1)
        assert after["loss_scale/scale"] == 2.0**29
        assert after["first_bad_step"] == -1
        name = "model/block1_conv1/kernel"
        np.testing.assert_array_equal(before[name], after[name])


def test_nonfinite_value_stops_all_updates(data):
    trainer = Trainer(data)
    trainer.train(2)
    trainer.state.trainable[0].assign(trainer.state.trainable[0] * np.nan)
    before = trainer.state.snapshot()
    after = trainer.train(3)
    assert after["first_bad_step"] == 2
    assert after["step"] == 5
    for name in before.keys() - {"step", "first_bad_step"}:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_clipping_bounds_the_summed_gradient(data):
    settings = {
        "optimizer.clip_norm": 1e-3,
        "optimizer.momentum": 0.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.schedule": "constant",
        "optimizer.warmup_epochs": 0.0,
    }
    for replicas in (1, 2):
        trainer = Trainer(data, replicas, **settings)
        before = [v.numpy() for v in trainer.state.trainable]
        trainer.train(1)
        moved = [
            old - v.numpy()
            for old, v in zip(before, trainer.state.trainable, strict=True)
        ]
        norm = np.sqrt(sum((m**2).sum() for m in moved))
        assert norm == pytest.approx(0.05 * 1e-3, rel=0.01)


def test_xla_gives_the_same_step_on_2_replicas(data):
    small = {"model.width": 0.0625, "global_batch_size": 16}
    plain = Trainer(data, 2, jit_compile="off", **small).train(1)
    compiled = Trainer(data, 2, jit_compile="on", **small).train(1)
    # After one step, the momentum is the gradient with weight decay.
    for name in plain:
        if name.startswith(("momentum/", "model/", "ema/")):
            assert distance(plain[name], compiled[name]) < 0.05, name
    assert plain["step"] == compiled["step"] == 1
    assert plain["window/loss"] == pytest.approx(
        compiled["window/loss"], rel=1e-4
    )


def test_dropout_is_the_same_on_one_and_two_replicas():
    drawn = [
        np.concatenate(
            [
                step.dropout_noise(
                    [8, 5],
                    seed=3,
                    step=tf.constant(7, tf.int64),
                    replica=tf.constant(replica),
                    num_replicas=replicas,
                )
                for replica in range(replicas)
            ]
        )
        for replicas in (1, 2, 4)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    other = step.dropout_noise(
        [8, 5],
        seed=3,
        step=tf.constant(8, tf.int64),
        replica=tf.constant(0),
        num_replicas=1,
    )
    assert not np.array_equal(drawn[0], other)


@pytest.mark.parametrize("mixup_alpha", [0.0, 1.0])
def test_the_classes_are_those_of_the_data_set(data, mixup_alpha):
    three = dataclasses.replace(
        data,
        train=dataset.Split(data.train.images, data.train.labels % 3),
        test=dataset.Split(data.test.images, data.test.labels % 3),
        class_names=("a", "b", "c"),
    )
    trainer = Trainer(three, **{"augment.mixup_alpha": mixup_alpha})
    after = trainer.train(1)
    assert after["model/logits/bias"].shape == (3,)
    # This is the loss of a guess among three classes.
    assert after["window/loss"] == pytest.approx(np.log(3), rel=0.2)
    assert 0 < after["window/correct"] < 64
