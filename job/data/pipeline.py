"""Which images a step sees: a pure function of (seed, step).

An epoch's order is a stateless permutation, so there is no iterator to save: a
run that resumes at step s asks for batches from s on and gets the same ones.
Epochs follow one another without a gap: position p of the run is image
`order(p // n)[p % n]`, so each image is seen exactly once an epoch also where
the batch size does not divide n.

    batches = train_batches(split, seed=0, global_batch_size=512, first_step=0)
    batches = eval_batches(split, global_batch_size=1000)

Both give one element a replica and step, in the replicas' order: with R
replicas, elements s * R to s * R + R - 1 are step s. That is what
`tf.distribute` hands out, and a plain iteration with `num_replicas=1` gives
global batches. A worker of several asks for the elements of its own replicas.

    iterator = distribute(strategy, lambda own: train_batches(...))
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from job.data.dataset import Split

_SHUFFLE_ROUNDS = 12
# That gather images: two make a million a second.
_THREADS = min(8, os.cpu_count() or 1)


class TrainBatch(NamedTuple):
    """One replica's share of a step, b images.

    Attributes:
      image: uint8 [b, 32, 32, 3], 0 to 255.
      label: int32 [b], 0 to 9.
      index: int32 [b], which image of the training split.
      epoch: int32 [b], how often the run had seen the image before.
    """

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor
    epoch: tf.Tensor


class EvalBatch(NamedTuple):
    """One replica's share of a step of evaluation, b images.

    Attributes:
      image: uint8 [b, 32, 32, 3], 0 to 255.
      label: int32 [b], 0 to 9.
      mask: float32 [b], 1.0, and 0.0 for what fills up the last batch.
    """

    image: tf.Tensor
    label: tf.Tensor
    mask: tf.Tensor


def train_indices(
    positions: tf.Tensor, *, num_images: int, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Says which image stands where in the run.

    Args:
      positions: int64 [b], ascending; image number of the run, from 0.
      num_images: images in the training split, n.
      seed: of the order.

    Returns:
      int32 [b] index of the image, 0 to n - 1, and int32 [b] epoch.
    """
    epoch = positions // num_images
    within = positions % num_images

    def shuffled(epochs: tf.Tensor) -> tf.Tensor:
        same = tf.zeros_like(epochs)
        seeds = tf.stack([same + seed, epochs, same], axis=-1)
        # tf.random.experimental.index_shuffle is this op with 4 rounds. They
        # are too few: two images of one batch meet again in another epoch's
        # batch 17 times as often as by chance (n 50,000, batch 256); from 6
        # rounds on as often as by chance: tests/unit/data/test_pipeline.py.
        return tf.raw_ops.RandomIndexShuffle(
            index=within,
            seed=tf.cast(seeds, tf.int32),
            max_index=tf.constant(num_images - 1, tf.int64),
            rounds=_SHUFFLE_ROUNDS,
        )

    # One seed for the batch is several times as fast as one for each image,
    # and all but a step an epoch lie in one epoch.
    index = tf.cond(
        tf.equal(epoch[0], epoch[-1]),
        lambda: shuffled(epoch[0]),
        lambda: shuffled(epoch),
    )
    return tf.cast(index, tf.int32), tf.cast(epoch, tf.int32)


def train_batches(
    split: Split,
    *,
    seed: int,
    global_batch_size: int,
    first_step: int,
    num_replicas: int = 1,
    own_replicas: range | None = None,
) -> tf.data.Dataset:
    """Returns an endless `tf.data.Dataset` of `TrainBatch`.

    Args:
      split: the training images; kept in memory once, however many replicas.
      seed: of the order.
      global_batch_size: images a step; a multiple of `num_replicas`.
      first_step: where the run starts or goes on.
      num_replicas: how many elements make a step.
      own_replicas: whose elements are wanted; None: all.
    """
    size = global_batch_size // num_replicas
    own = own_replicas or range(num_replicas)
    with tf.device("CPU:0"):
        images = tf.constant(split.images)
        labels = tf.constant(split.labels)

    # AutoGraph has nothing to convert here, takes its time to find that out,
    # and leaves a file for each function where a process ends at once.
    @tf.autograph.experimental.do_not_convert
    def gather(number: tf.Tensor) -> TrainBatch:
        positions = _positions(number, size, num_replicas, own)
        index, epoch = train_indices(
            positions, num_images=len(split), seed=seed
        )
        index = tf.ensure_shape(index, [size])
        return TrainBatch(
            tf.gather(images, index), tf.gather(labels, index), index, epoch
        )

    elements = tf.data.Dataset.counter(first_step * len(own), dtype=tf.int64)
    batches = elements.map(
        gather, num_parallel_calls=_THREADS, deterministic=True
    )
    return untuned(batches.prefetch(2 * len(own)))


def eval_batches(
    split: Split,
    *,
    global_batch_size: int,
    num_replicas: int = 1,
    own_replicas: range | None = None,
) -> tf.data.Dataset:
    """Returns a `tf.data.Dataset` of `EvalBatch`, every image exactly once.

    Args:
      split: the images to score.
      global_batch_size: images a step; a multiple of `num_replicas`.
      num_replicas: how many elements make a step.
      own_replicas: whose elements are wanted; None: all.

    Returns:
      Elements of equal shape, without end; each `eval_steps(...)` steps are
      one evaluation.
    """
    size = global_batch_size // num_replicas
    own = own_replicas or range(num_replicas)
    steps = eval_steps(len(split), global_batch_size)
    with tf.device("CPU:0"):
        images = tf.constant(split.images)
        labels = tf.constant(split.labels)

    @tf.autograph.experimental.do_not_convert
    def gather(number: tf.Tensor) -> EvalBatch:
        positions = _positions(number, size, num_replicas, own)
        index = tf.minimum(positions, len(split) - 1)
        mask = tf.cast(positions < len(split), tf.float32)
        return EvalBatch(
            tf.gather(images, index), tf.gather(labels, index), mask
        )

    elements = tf.data.Dataset.range(steps * len(own))
    # Endless, because tf.distribute handles a data set that ends by way of
    # optionals, at a price; the caller knows how many steps there are.
    return untuned(elements.map(gather).repeat().prefetch(len(own)))


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same without tf.data's tuning, which has nothing to tune.

    Its thread may sleep through its end: TensorFlow 2.21 wakes it before it
    sets the flag that the thread looks at, so that whoever drops an iterator
    waits, with Python's lock, for up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def distribute(
    strategy: tf.distribute.Strategy,
    create: Callable[[range], tf.data.Dataset],
) -> Iterator[Any]:
    """Returns an iterator over what each replica gets, on its device.

    Args:
      strategy: over whose replicas a step runs.
      create: makes the batches of a worker, given which of a step's replicas
        are its own: one element a replica and step.
    """
    batches = strategy.distribute_datasets_from_function(
        lambda context: create(own_replicas_of(context))
    )
    # TensorFlow's own data set of each device, which fetches ahead, would be
    # tuned too, and there is no option for it. (The operation that sets options
    # has a kernel for GPUs, as that data set's own have.)
    on_device = multi_device_iterator_ops._create_device_dataset
    with mock.patch.object(
        multi_device_iterator_ops,
        on_device.__name__,
        lambda *args: untuned(on_device(*args)),
    ):
        return iter(batches)


def own_replicas_of(context: tf.distribute.InputContext) -> range:
    """Returns the indices of a worker's own replicas among those of a step."""
    each = context.num_replicas_in_sync // context.num_input_pipelines
    first = context.input_pipeline_id * each
    return range(first, first + each)


def _positions(
    number: tf.Tensor, size: int, num_replicas: int, own: range
) -> tf.Tensor:
    """Returns int64 [size]: what the number-th element of a worker holds."""
    step, place = number // len(own), number % len(own)
    element = step * num_replicas + own.start + place
    return element * size + tf.range(size, dtype=tf.int64)


def eval_steps(num_images: int, global_batch_size: int) -> int:
    """Returns how many steps score `num_images`, the last one filled up."""
    return -(-num_images // global_batch_size)
