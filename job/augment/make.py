"""Composition of the operations into one function of a batch.

    augment = make_augment(create_operations(fields), seed=0, ...)
    images, share = augment(batch, step, replica)

XLA also compiles the random draws, except those from a gamma distribution.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from job.augment.draws import Draws
from job.augment.operations import Augmented, Mix, Numbers, Operation
from job.data.pipeline import TrainBatch

# (batch, step, replica) -> augmented batch; see `make_augment`.
Augment = Callable[[TrainBatch, tf.Tensor, tf.Tensor], Augmented]


def make_augment(
    operations: Sequence[Operation],
    *,
    seed: int,
    num_images: int,
    global_batch_size: int,
    num_replicas: int,
    jit_compile: bool = False,
) -> Augment:
    """Returns the function that augments one replica's batch.

    Args:
      operations: Operations in order; see `operations.create_operations`. If
        empty, images are not changed.
      seed: Seed of all random numbers.
      num_images: Number of images in the training split.
      global_batch_size: Images per step, B.
      num_replicas: Number of replicas, R. A batch has b = B / R images, an even
        number if images are mixed.
      jit_compile: Whether XLA compiles the augmentation.

    Returns:
      Function from a batch, a step (int64 []) and a replica (int32 [], 0 to
      R - 1) to `Augmented`.
    """
    size = global_batch_size // num_replicas
    if any(isinstance(o, Mix) for o in operations) and size % 2:
        raise ValueError(f"{size} images per replica cannot be mixed in pairs")

    def apply(
        batch: TrainBatch,
        step: tf.Tensor,
        first: tf.Tensor | int,
        drawn: list[Numbers | None],
    ) -> Augmented:
        draws = Draws(seed, step, global_batch_size, first, size, num_images)
        # TensorFlow 2.21 gathers floats on a GPU. It copies uint8 to the host
        # and back without a warning.
        augmented = Augmented(tf.cast(batch.image, tf.float32), None)
        for operation, numbers in zip(operations, drawn, strict=True):
            if numbers is None:
                numbers = operation.draw(draws, batch)
            augmented = operation.apply(augmented, numbers)
        return augmented._replace(image=tf.cast(augmented.image, tf.uint8))

    if jit_compile:
        apply = tf.function(apply, jit_compile=True, autograph=False)

    def augment(
        batch: TrainBatch, step: tf.Tensor, replica: tf.Tensor
    ) -> Augmented:
        if not operations:
            return Augmented(batch.image, None)
        # A variable would be an argument of the compiled part by reference, and
        # an int32 tensor would be copied from the host of a GPU at each step.
        step = tf.convert_to_tensor(step)
        constant = tf.get_static_value(replica)
        first = (
            tf.cast(replica, tf.int32) if constant is None else int(constant)
        ) * size
        draws = Draws(seed, step, global_batch_size, first, size, num_images)
        drawn = [
            operation.draw(draws, batch) if _draws_gamma(operation) else None
            for operation in operations
        ]
        return apply(batch, step, first, drawn)

    return augment


def _draws_gamma(operation: Operation) -> bool:
    return isinstance(operation, Mix) and bool(operation.mixup_alpha)
