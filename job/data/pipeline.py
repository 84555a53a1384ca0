"""Images of each step, a pure function of (seed, step).

An epoch's order is a stateless permutation, so no iterator has to be saved. A
run that resumes at step s gets the batches from s on. Epochs follow one another
without a gap, as position p of the run is image `order(p // n)[p % n]`. So each
image is used exactly once per epoch, even if the batch size does not divide n.

    batches = train_batches(split, seed=0, global_batch_size=512, first_step=0)
    batches = eval_batches(split, global_batch_size=1000)

Both yield one element per replica and step, in the order of the replicas. With
R replicas, elements s * R to s * R + R - 1 are step s. `tf.distribute` assigns
them in this way, and plain iteration with `num_replicas=1` yields global
batches. A worker creates the elements of its own replicas only.

    iterator = distribute(strategy, lambda own: train_batches(...))
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from job.data.dataset import Split
from job.supervision import tensorflow_workarounds

_SHUFFLE_ROUNDS = 12
# Threads that gather images. Two gather a million images per second.
_THREADS = min(8, os.cpu_count() or 1)


class TrainBatch(NamedTuple):
    """One replica's part of a training step, b images.

    Attributes:
      image: Images, uint8 [b, 32, 32, 3], 0 to 255.
      label: Labels, int32 [b], 0 to the number of classes - 1.
      index: Indices of the images in the training split, int32 [b].
      epoch: Numbers of earlier uses of the images in the run, int32 [b].
    """

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor
    epoch: tf.Tensor


class EvalBatch(NamedTuple):
    """One replica's part of an evaluation step, b images.

    Attributes:
      image: Images, uint8 [b, 32, 32, 3], 0 to 255.
      label: Labels, int32 [b], 0 to the number of classes - 1.
      mask: Weights of the images, float32 [b], 1.0, or 0.0 for images that pad
        the last batch.
    """

    image: tf.Tensor
    label: tf.Tensor
    mask: tf.Tensor


def train_indices(
    positions: tf.Tensor, *, num_images: int, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the image indices at positions of the run.

    Args:
      positions: Ascending positions in the run, int64 [b], from 0.
      num_images: Number of images in the training split, n.
      seed: Seed of the order.

    Returns:
      Index of each image, int32 [b], 0 to n - 1, and its epoch, int32 [b].
    """
    epoch = positions // num_images
    within = positions % num_images

    def shuffled(epochs: tf.Tensor) -> tf.Tensor:
        same = tf.zeros_like(epochs)
        seeds = tf.stack([same + seed, epochs, same], axis=-1)
        # tf.random.experimental.index_shuffle is this op with 4 rounds, which
        # are too few. Two images of a batch then share a batch of another epoch
        # 17 times as often as by chance (n 50,000, batch 256), but from 6
        # rounds on as often. tests/unit/data/test_pipeline.py counts it.
        return tf.raw_ops.RandomIndexShuffle(
            index=within,
            seed=tf.cast(seeds, tf.int32),
            max_index=tf.constant(num_images - 1, tf.int64),
            rounds=_SHUFFLE_ROUNDS,
        )

    # One seed per batch is several times as fast as one per image, and only
    # one step per epoch spans two epochs.
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
      split: Training images, stored once for any number of replicas.
      seed: Seed of the order.
      global_batch_size: Images per step, a multiple of `num_replicas`.
      first_step: Step at which the run starts or resumes.
      num_replicas: Number of elements per step.
      own_replicas: Replicas to create elements for. If None, all.
    """
    size = global_batch_size // num_replicas
    own = own_replicas or range(num_replicas)
    with tf.device("CPU:0"):
        images = tf.constant(split.images)
        labels = tf.constant(split.labels)

    # AutoGraph has nothing to convert here. It takes time, and leaves a
    # temporary file per function if the process ends abruptly.
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
      split: Images to score.
      global_batch_size: Images per step, a multiple of `num_replicas`.
      num_replicas: Number of elements per step.
      own_replicas: Replicas to create elements for. If None, all.

    Returns:
      Endless elements of equal shape. `eval_steps(...)` steps are one
      evaluation.
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
    # The data set is endless, because tf.distribute handles its end with
    # optionals, which are slow. The caller has the number of steps.
    return untuned(elements.map(gather).repeat().prefetch(len(own)))


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a data set without tf.data's autotuning, which has no use here.

    The tuning thread may miss its end, because TensorFlow 2.21 wakes it before
    setting the flag that it checks. Deleting an iterator then waits for up to a
    minute, holding Python's global lock.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def distribute(
    strategy: tf.distribute.Strategy,
    create: Callable[[range], tf.data.Dataset],
) -> Iterator[Any]:
    """Returns an iterator over per-replica batches, on the replicas' devices.

    Args:
      strategy: Strategy whose replicas run the steps.
      create: Function of a worker's own replicas that returns its batches, one
        element per replica and step.
    """
    batches = strategy.distribute_datasets_from_function(
        lambda context: create(own_replicas_of(context))
    )
    # TensorFlow's own prefetching data set of each device would be tuned too.
    # The operation that sets options has a kernel for GPUs, as those of that
    # data set have.
    with tensorflow_workarounds.map_device_datasets(untuned):
        return iter(batches)


def own_replicas_of(context: tf.distribute.InputContext) -> range:
    """Returns the indices of a worker's own replicas among those of a step."""
    each = context.num_replicas_in_sync // context.num_input_pipelines
    first = context.input_pipeline_id * each
    return range(first, first + each)


def _positions(
    number: tf.Tensor, size: int, num_replicas: int, own: range
) -> tf.Tensor:
    """Returns the run's positions in a worker's n-th element, int64 [size]."""
    step, index = number // len(own), number % len(own)
    element = step * num_replicas + own.start + index
    return element * size + tf.range(size, dtype=tf.int64)


def eval_steps(num_images: int, global_batch_size: int) -> int:
    """Returns the number of steps per evaluation, the last one padded."""
    return -(-num_images // global_batch_size)
