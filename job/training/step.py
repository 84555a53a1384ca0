"""Training steps on the device: forward, backward, sum over replicas, update.

Gradients and batch statistics of the global batch are summed together; see
`loss`. The moving statistics are therefore equal on every replica after every
step, and the same in a checkpoint and with another number of replicas.

    train_steps = make_train_steps(strategy, state, augment, settings, ...)
    train_steps(iterator, tf.constant(10))     # ten steps on the device
"""

from collections.abc import Callable, Collection, Iterator

import keras
import tensorflow as tf

from job.augment import Augment
from job.data.pipeline import TrainBatch
from job.model import vgg
from job.model.resize import Resize
from job.model.variables import trainable_indices
from job.training.loss import StepSums, make_forward_backward
from job.training.state import ReplicaVariables, TrainState
from job.training.update import OptimizerSettings, Update

TrainSteps = Callable[[Iterator[TrainBatch], tf.Tensor], None]

# Separates the random numbers of dropout from other draws with the same seed.
_DROPOUT = 0x44524F50


def make_train_steps(
    strategy: tf.distribute.Strategy,
    state: TrainState,
    augment: Augment,
    settings: OptimizerSettings,
    *,
    network: keras.Model,
    resize: Resize,
    trainable_blocks: Collection[str],
    seed: int,
    global_batch_size: int,
    jit_compile: bool,
) -> TrainSteps:
    """Returns the compiled function that runs several training steps.

    Args:
      strategy: Strategy over whose replicas a step runs.
      state: Variables that a step changes.
      augment: Augmentation; see `augment.make_augment`.
      settings: Settings of the update.
      network: Network for the batch, `state.model` or its head for batches of
        features (see `vgg.split_base_and_head`).
      resize: Scaling of the images before the network; see `model.resize`.
      trainable_blocks: Names of the blocks to train; see `model.spec`. The
        gradients of the others are not computed.
      seed: Seed of the dropout.
      global_batch_size: Images per step, B.
      jit_compile: Whether XLA compiles the forward and backward pass and the
        update, but not the sum over replicas.

    Returns:
      Function of an iterator over `TrainBatch` and a number of steps, int32 [].
      Updates end if a loss or gradient is not finite; see
      `TrainState.first_bad_step`.
    """
    num_replicas = strategy.num_replicas_in_sync
    variables = [
        state.model.trainable_variables[i]
        for i in trainable_indices(state.model, trainable_blocks)
    ]
    packing = _Packing(
        [tf.TensorShape(variable.shape) for variable in variables],
        [variable.shape for variable in state.moving_statistics],
        num_replicas,
    )
    forward_backward = make_forward_backward(
        network,
        resize,
        variables,
        label_smoothing=settings.label_smoothing,
        global_batch_size=global_batch_size,
        num_replicas=num_replicas,
    )
    if jit_compile:
        forward_backward = _compile_with_xla(forward_backward)
    update = Update(state.model, settings, trainable_blocks=trainable_blocks)
    noise_width = vgg.noise_width(network)

    def replica_sums(batch: TrainBatch) -> StepSums | tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        augmented = augment(batch, state.step, replica)
        noise = None
        if noise_width:
            noise = dropout_noise(
                [global_batch_size, noise_width],
                seed=seed,
                step=state.step,
                replica=replica,
                num_replicas=num_replicas,
            )
        scale = state.loss_scale.get("scale", tf.constant(1.0))
        return packing.pack(
            forward_backward(
                augmented, batch.label, noise, tf.convert_to_tensor(scale)
            )
        )

    def replica_update(
        step: tf.Variable,
        sums: StepSums | tf.Tensor,
        copies: ReplicaVariables,
    ) -> None:
        def apply(sums: StepSums | tf.Tensor) -> None:
            update(step, packing.unpack(sums), copies)

        if jit_compile:
            # Without XLA the update launches hundreds of small kernels.
            apply = _compile_with_xla(apply)
        apply(sums)

    def train_step(batch: TrainBatch) -> None:
        sums = strategy.run(replica_sums, args=(batch,))
        if num_replicas > 1:
            sums = strategy.extended.reduce_to(
                tf.distribute.ReduceOp.SUM, sums, destinations=state.step
            )
        strategy.extended.update(
            state.step, replica_update, args=(sums, state.replica_variables())
        )

    return _make_loop(train_step)


def _compile_with_xla(function: Callable) -> Callable:
    return tf.function(function, jit_compile=True, autograph=False)


def _make_loop(train_step: Callable[[TrainBatch], None]) -> TrainSteps:
    """Returns the compiled function that runs a step several times."""

    @tf.function(autograph=False)
    def train_steps(
        iterator: Iterator[TrainBatch], num_steps: tf.Tensor
    ) -> None:
        def body(done: tf.Tensor) -> tuple[tf.Tensor]:
            train_step(next(iterator))
            return (done + 1,)

        tf.while_loop(
            lambda done: done < num_steps,
            body,
            (tf.constant(0),),
            parallel_iterations=1,
        )

    return train_steps


def dropout_noise(
    shape: list[int],
    *,
    seed: int,
    step: tf.Tensor,
    replica: tf.Tensor,
    num_replicas: int,
) -> tf.Tensor:
    """Returns the random numbers of a step for one replica.

    They are drawn for the global batch, so that they do not depend on the
    number of replicas.

    Args:
      shape: Shape of the random numbers of the global batch, [B, d].
      seed: Seed of the run.
      step: Step, int64 [].
      replica: Index of the replica, int32 [], 0 to num_replicas - 1.
      num_replicas: Number of replicas, R.

    Returns:
      Random numbers, float32 [B / R, d], uniform over [0, 1).
    """
    key = tf.random.experimental.stateless_fold_in(
        tf.constant([seed, _DROPOUT], tf.int64), step, alg="philox"
    )
    drawn = tf.random.stateless_uniform(shape, key, alg="philox")
    size = shape[0] // num_replicas
    first = tf.cast(replica, tf.int32) * size
    return tf.ensure_shape(drawn[first : first + size], [size, shape[1]])


class _Packing:
    """Vector of all sums of a step, for one sum over replicas."""

    def __init__(
        self,
        gradients: list[tf.TensorShape],
        statistics: list[tf.TensorShape],
        num_replicas: int,
    ) -> None:
        """Stores the shapes of the gradients and of the batch statistics."""
        scalar = tf.TensorShape([])
        self._shapes = [*gradients, *statistics, scalar, scalar]
        self._num_gradients = len(gradients)
        # A single replica needs no sum and no copy of its gradients.
        self._is_used = num_replicas > 1

    def pack(self, sums: StepSums) -> StepSums | tf.Tensor:
        """Returns one vector, float32 [n], or `sums` for a single replica."""
        if not self._is_used:
            return sums
        tensors = [*sums.gradients, *sums.statistics, sums.loss, sums.correct]
        return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)

    def unpack(self, packed: StepSums | tf.Tensor) -> StepSums:
        """Returns the sums that were packed."""
        if not self._is_used:
            return packed
        parts = tf.split(packed, [s.num_elements() for s in self._shapes])
        *tensors, loss, correct = (
            tf.reshape(part, shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        )
        return StepSums(
            tensors[: self._num_gradients],
            tensors[self._num_gradients :],
            loss,
            correct,
        )
