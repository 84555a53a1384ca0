"""Tests of the augmentation on several replicas and its cost if it is off."""

import numpy as np
import pytest
import tensorflow as tf

from configs import augment_presets
from job import augment
from job.config import augmentation
from job.data import pipeline
from tests.support.strengths import strong

DEFAULT = {"flip": "random", "translate": 4.0, "cutout_pixels": 8.0}
# Each operation is tested alone and with all others.
ONE_BY_ONE = {
    "flip": "random",
    **{
        name: strong(name)
        for name in augmentation.strengths(augment_presets.off())
    },
}


def preset(name):
    return augment_presets.fields(name)


def make(fields=DEFAULT, replicas=1, batch=36, seed=0, **kwargs):
    return augment.make_augment(
        augment.create_operations(fields),
        seed=seed,
        num_images=100,
        global_batch_size=batch,
        num_replicas=replicas,
        **kwargs,
    )


def batches(split, step, replicas=1, batch=36):
    return pipeline.train_batches(
        split,
        seed=0,
        global_batch_size=batch,
        first_step=step,
        num_replicas=replicas,
    ).take(replicas)


def augmented(split, step, fields=DEFAULT, replicas=1, batch=36):
    """Returns the images of a global batch and their mixing weights."""
    call = tf.function(make(fields, replicas, batch), autograph=False)
    step_number = tf.constant(step, tf.int64)
    parts = [
        call(part, step_number, tf.constant(r))
        for r, part in enumerate(batches(split, step, replicas, batch))
    ]
    images = np.concatenate([p.image.numpy() for p in parts])
    if parts[0].share is None:
        return images, None
    return images, np.concatenate([p.share.numpy() for p in parts])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(DEFAULT, id="default"),
        *(pytest.param(preset(n), id=n) for n in augment_presets.NAMES),
        pytest.param(ONE_BY_ONE, id="all"),
    ],
)
def test_global_batches_are_the_same_on_1_2_and_3_replicas(split, fields):
    whole, share = augmented(split, 5, fields)
    for replicas in (2, 3):
        images, shares = augmented(split, 5, fields, replicas)
        np.testing.assert_array_equal(whole, images)
        np.testing.assert_array_equal(share, shares)
    mixed = fields.get("mixup_alpha") or fields.get("cutmix_probability")
    assert (share is None) == (not mixed)


@pytest.mark.parametrize("name", ["strong", "keras_classic"])
def test_steps_and_seeds_differ_and_repeat(split, name):
    fields = preset(name)
    (batch,) = batches(split, 0)
    outcomes = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        call = make(fields, seed=seed)
        images, _ = call(batch, tf.constant(step, tf.int64), tf.constant(0))
        outcomes.append(images.numpy().tobytes())
    assert len(set(outcomes)) == 3
    assert outcomes[0] == outcomes[3]


def test_replicas_draw_different_numbers(split):
    """Covers a bug of Keras' SeedGenerator under MirroredStrategy."""
    (batch,) = batches(split, 0, batch=16)
    call = make(replicas=2, batch=32)
    step = tf.constant(0, tf.int64)
    one, two = (call(batch, step, tf.constant(r)).image for r in (0, 1))
    assert (one != two).numpy().any(axis=(1, 2, 3)).mean() > 0.5


def graph_size(fields):
    """Returns the number of traced operations."""
    batch = pipeline.TrainBatch(
        tf.zeros([4, 32, 32, 3], tf.uint8), *[tf.zeros([4], tf.int32)] * 3
    )
    call = tf.function(make(fields, batch=4), autograph=False)
    graph = call.get_concrete_function(
        batch, tf.constant(0, tf.int64), tf.constant(0)
    ).graph
    return len(graph.get_operations())


def test_operations_that_are_off_are_not_traced():
    nothing = graph_size({})
    # Six inputs (batch, step and replica), two outputs and a product remain.
    assert nothing < 12
    for name, strength in ONE_BY_ONE.items():
        assert graph_size({name: strength}) > nothing, name
    # Operations with common draws are included.
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    whole = graph_size(jitter)
    for name in jitter:
        assert graph_size({**jitter, name: 0.0}) < whole, name


def test_all_off_changes_nothing(split):
    plain, share = augmented(split, 0, augment_presets.off())
    (batch,) = batches(split, 0)
    np.testing.assert_array_equal(plain, batch.image.numpy())
    assert share is None


def test_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match="15 images per replica"):
        make({"mixup_alpha": 1.0}, replicas=2, batch=30)


@pytest.mark.parametrize("replicas", [1, 2])
def test_xla_changes_results_by_rounding_only(split, replicas):
    fields = {**DEFAULT, "autoaugment": 1.0, "mixup_alpha": 1.0}
    *_, batch = batches(split, 0, replicas)
    step, replica = tf.constant(0, tf.int64), tf.constant(replicas - 1)
    plain = make(fields, replicas)(batch, step, replica)
    compiled = make(fields, replicas, jit_compile=True)(batch, step, replica)
    apart = np.abs(plain.image.numpy().astype(int) - compiled.image.numpy())
    assert (apart > 0).mean() < 0.01
    np.testing.assert_array_equal(plain.share, compiled.share)
