"""Transfer learning: frozen blocks, phases and features."""

import numpy as np
import pytest
import tensorflow as tf

from job import build, errors, train
from job.data import sources
from job.model import resize as resize_lib
from job.model import spec, vgg, weights
from job.output import metrics
from job.storage.workdir import Workdir
from job.supervision import preemption

INF = float("inf")


def random_weights():
    """Returns He-initialized convolutions at an eighth of the width."""
    rng = np.random.default_rng(1)
    found = {}
    for layer, shape in spec.kernel_shapes(width=0.125).items():
        scale = (2 / (9 * shape[2])) ** 0.5
        kernel = rng.normal(0, scale, shape).astype(np.float32)
        found[f"{layer}/kernel"] = kernel
        found[f"{layer}/bias"] = np.zeros(shape[3], np.float32)
    return found


@pytest.fixture
def transfer_config(config, monkeypatch):
    """Returns a config of 6 steps of 8 images, from weights of its width."""
    found = random_weights()
    monkeypatch.setattr(weights, "load", lambda source: found)
    config.model.weights = "x.h5"
    config.model.batch_norm = False
    config.data.synthetic_train_images = 40
    config.data.synthetic_test_images = 10
    config.evaluate.global_batch_size = 10
    config.evaluate.every_epochs = 0.0
    config.global_batch_size = 8
    config.steps = 6
    config.checkpoint.every_steps = 2
    config.optimizer.peak_learning_rate = 1e-3
    config.optimizer.clip_norm = 1.0
    return config


def freeze(config, **epochs):
    for block in spec.BLOCK_NAMES:
        config.transfer.unfreeze_epochs[block] = epochs.get(block, INF)


def weights_of(state):
    return {
        v.path: np.array(v.value.numpy())
        for v in state.model.trainable_variables
    }


def test_opened_blocks_train_and_frozen_ones_keep_every_byte(
    transfer_config, tmp_path
):
    config = transfer_config
    freeze(config, block5=0.4, block4=0.8)  # Steps 2 and 4 of 6.
    states = {}

    def record(loop):
        states[loop.step] = weights_of(loop.state)

    train.train_and_evaluate(
        config, Workdir(tmp_path), preemption.StopRequest(), on_call=record
    )

    def changed(before, after):
        return {
            model_block(path)
            for path in states[before]
            if not np.array_equal(states[before][path], states[after][path])
        }

    assert changed(0, 2) == {"head"}
    assert changed(2, 4) == {"head", "block5"}
    assert changed(4, 6) == {"head", "block5", "block4"}


def model_block(path):
    return path.split("_")[0] if path.startswith("block") else "head"


def test_a_stop_in_a_phase_and_a_resume_change_no_byte(
    transfer_config, tmp_path
):
    config = transfer_config
    config.model.dropout = 0.5
    config.augment.flip = "random"
    freeze(config, block5=0.6)
    unstopped, stopped = tmp_path / "unstopped", tmp_path / "stopped"
    finals = {}

    def record(loop):
        finals[loop.step] = loop.state.snapshot()
        if stopping and loop.step >= 4:
            stop.requested = True

    stop, stopping = preemption.StopRequest(), False
    train.train_and_evaluate(config, Workdir(unstopped), stop, on_call=record)
    wanted = finals[6]
    stopping = True
    with pytest.raises(errors.PreemptedError):
        train.train_and_evaluate(config, Workdir(stopped), stop, on_call=record)
    stop, stopping = preemption.StopRequest(), False
    train.train_and_evaluate(config, Workdir(stopped), stop, on_call=record)
    for name, value in finals[6].items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    assert [
        (line["split"], line["step"], line["loss"])
        for line in metrics.read(unstopped)
    ] == [
        (line["split"], line["step"], line["loss"])
        for line in metrics.read(stopped)
    ]


def test_a_head_on_features_learns_as_on_the_frozen_base(
    transfer_config, tmp_path
):
    config = transfer_config
    freeze(config)
    config.augment.flip = "none"
    config.augment.translate = 0.0
    config.augment.cutout_pixels = 0.0
    data = build.load_data(config)
    plan = build.create_plan(config, len(data.train))
    assert build.uses_features(config, plan)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    ends = []
    for cached in (True, False):
        state = build.create_state(config, strategy, num_classes=10)
        state.load_weights(weights.load(config.model.weights))
        split, network = data.train, state.model
        if cached:
            split, network = build.prepare_inputs(
                config, data.train, state, plan, lambda: None
            )
            assert split.images.shape == (40, 64)
            direct = vgg.split_base_and_head(state.model)[0](
                data.train.images[:8]
            )
            np.testing.assert_allclose(split.images[:8], direct, rtol=1e-4)
        steps = build.create_train_steps(
            config, strategy, state, plan, network, plan.phases[0]
        )
        batches = build.create_batches(config, strategy, split, first_step=0)
        steps(batches, tf.constant(6))
        ends.append(weights_of(state))
    for path in ends[0]:
        np.testing.assert_allclose(
            ends[0][path], ends[1][path], rtol=1e-3, atol=1e-5, err_msg=path
        )


def test_changing_images_exclude_precomputed_features(transfer_config):
    config = transfer_config
    freeze(config)
    config.augment.flip = "none"
    config.augment.translate = 0.0
    config.augment.cutout_pixels = 0.0

    def kept(**changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        plan = build.create_plan(changed, 40)
        return build.uses_features(changed, plan)

    assert kept()
    assert not kept(**{"augment.flip": "random"})
    assert not kept(**{"augment.translate": 1.0})
    assert not kept(**{"transfer.unfreeze_epochs.block5": 0.4})
    assert not kept(
        **{"model.progressive_sizes": (64,), "model.progressive_epochs": (0.4,)}
    )


def test_progressive_sizes_grow_during_a_run(config, tmp_path, monkeypatch):
    config.model.input_size = 64
    config.model.progressive_sizes = (24, 32)
    config.model.progressive_epochs = (0.4, 0.8)
    config.data.synthetic_train_images = 40
    config.data.synthetic_test_images = 10
    config.evaluate.global_batch_size = 10
    config.global_batch_size = 8
    config.steps = 6
    config.checkpoint.every_steps = 6
    sizes = []
    traced = resize_lib.make_resize

    def spy(size, *, method):
        sizes.append(size)
        return traced(size, method=method)

    monkeypatch.setattr(resize_lib, "make_resize", spy)
    result = train.train_and_evaluate(
        config, Workdir(tmp_path), preemption.StopRequest()
    )
    assert result["train_steps"] == 6
    # The evaluation's size precedes those of the three phases.
    assert sizes == [64, 24, 32, 64]
    assert result["train_tflop"] > 0


def test_a_subset_of_the_images_is_always_the_same(config):
    config.data.train_images = 30
    first, second = (build.load_data(config).train for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert len(first) == 30
    everything = sources.load("synthetic", synthetic_train_images=640).train
    kept = {image.tobytes() for image in first.images}
    assert kept < {image.tobytes() for image in everything.images}
