"""Tests of the image order, a shuffle that depends only on (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops

from job.data import pipeline


def global_batches(split, steps, *, replicas=1, batch=30, first=0, seed=0):
    """Returns the global batches of some steps, as NumPy arrays by field."""
    dataset = pipeline.train_batches(
        split,
        seed=seed,
        global_batch_size=batch,
        first_step=first,
        num_replicas=replicas,
    )
    parts = list(dataset.take(steps * replicas).as_numpy_iterator())
    return [
        pipeline.TrainBatch(
            *map(
                np.concatenate,
                zip(*parts[i * replicas : (i + 1) * replicas], strict=True),
            )
        )
        for i in range(steps)
    ]


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_each_epoch_has_each_image_once_if_batches_span_epochs(split):
    batches = global_batches(split, 10)  # 3 epochs of 100 in batches of 30.
    index = np.concatenate([b.index for b in batches])
    epoch = np.concatenate([b.epoch for b in batches])
    for e in range(3):
        seen = index[e * 100 : (e + 1) * 100]
        np.testing.assert_array_equal(np.sort(seen), np.arange(100))
        assert set(epoch[e * 100 : (e + 1) * 100]) == {e}
    assert (index[:100] != index[100:200]).any()


def test_images_and_labels_are_those_of_the_index(split):
    (batch,) = global_batches(split, 1)
    np.testing.assert_array_equal(batch.image, split.images[batch.index])
    np.testing.assert_array_equal(batch.label, split.labels[batch.index])
    assert batch.image.dtype == np.uint8
    assert batch.label.dtype == batch.index.dtype == np.int32


def test_a_resumed_run_gets_the_later_batches(split):
    assert_equal(
        global_batches(split, 9)[4:], global_batches(split, 5, first=4)
    )


@pytest.mark.parametrize("replicas", [2, 3])
def test_global_batches_do_not_depend_on_the_replicas(split, replicas):
    assert_equal(
        global_batches(split, 8), global_batches(split, 8, replicas=replicas)
    )


def test_another_seed_gives_another_order(split):
    (one,) = global_batches(split, 1, seed=0)
    (other,) = global_batches(split, 1, seed=1)
    assert (one.index != other.index).any()


def test_images_of_one_batch_meet_again_no_more_than_by_chance():
    """TensorFlow's own 4 rounds exceed chance by a factor of 17."""
    n, batch = 50_000, 256

    def batch_of(epoch):
        positions = tf.range(epoch * n, (epoch + 1) * n, dtype=tf.int64)
        index, _ = pipeline.train_indices(positions, num_images=n, seed=0)
        number = np.empty(n, np.int64)
        number[index.numpy()] = np.arange(n) // batch
        return number

    first = batch_of(0)
    by_chance = n * (batch - 1) / 2 * batch / n
    for epoch in range(1, 6):
        pairs = first * 1000 + batch_of(epoch)
        together = np.unique(pairs, return_counts=True)[1]
        met_again = (together * (together - 1) / 2).sum()
        assert met_again == pytest.approx(by_chance, rel=0.05)


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_scores_every_image_exactly_once(split, replicas):
    batches = pipeline.eval_batches(
        split, global_batch_size=32, num_replicas=replicas
    )
    steps = pipeline.eval_steps(len(split), 32)
    assert steps == 4
    parts = list(batches.take(steps * replicas).as_numpy_iterator())
    mask = np.concatenate([p.mask for p in parts]).astype(bool)
    images = np.concatenate([p.image for p in parts])[mask]
    np.testing.assert_array_equal(images, split.images)
    labels = np.concatenate([p.label for p in parts])[mask]
    np.testing.assert_array_equal(labels, split.labels)


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_workers_have_the_elements_of_their_replicas(split, kind):
    def elements(own=None):
        if kind == "eval":
            batches = pipeline.eval_batches(
                split, global_batch_size=32, num_replicas=4, own_replicas=own
            )
        else:
            batches = pipeline.train_batches(
                split,
                seed=0,
                global_batch_size=32,
                first_step=3,
                num_replicas=4,
                own_replicas=own,
            )
        count = 3 * len(own or range(4))
        return list(batches.take(count).as_numpy_iterator())

    everyone = elements()
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, 4)
        own = pipeline.own_replicas_of(context)
        wanted = [everyone[4 * s + r] for s in range(3) for r in own]
        assert_equal(elements(own), wanted)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_iterator_has_a_thread_that_tunes(split, monkeypatch, replicas):
    """Covers TensorFlow's own iterators on each device too."""
    seen = []
    create = iterator_ops.OwnedIterator._create_iterator

    def note(self, dataset):
        seen.append(dataset.options().autotune.enabled)
        create(self, dataset)

    monkeypatch.setattr(iterator_ops.OwnedIterator, "_create_iterator", note)
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)]
    )
    batches = pipeline.distribute(
        strategy,
        lambda own: pipeline.train_batches(
            split,
            seed=0,
            global_batch_size=30,
            first_step=0,
            num_replicas=replicas,
            own_replicas=own,
        ),
    )
    assert seen == [False] * replicas
    first = strategy.experimental_local_results(next(batches).index)
    (wanted,) = global_batches(split, 1)
    np.testing.assert_array_equal(np.concatenate(first), wanted.index)
