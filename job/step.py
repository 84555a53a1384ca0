"""One training step: forward, backward, sum over replicas, update.

The global batch is the unit. A replica's loss is the sum over its examples
divided by the *global* batch size, so the sum of the replicas' gradients is the
gradient of the mean over the global batch, whatever the number of replicas.
The batch moments of the normalization layers ride in the same bucket: running
statistics are equal on every replica after every step, and a checkpoint or a
different number of replicas sees the same values.

    train_steps = make_train_steps(strategy, state, augment, settings, ...)
    train_steps(iterator, tf.constant(10))     # ten steps on the device
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from job import model as model_lib
from job import optimizer
from job.augment import Augment
from job.data.dataset import NUM_CLASSES
from job.data.pipeline import TrainBatch
from job.state import Replicated, TrainState

TrainSteps = Callable[[Iterator[TrainBatch], tf.Tensor], None]

# (uint8 [b, 32, 32, 3] images, int32 [b] labels, float32 [] loss scale) -> the
# tensors to sum over the replicas, in the order of `_Sums`.
_ForwardBackward = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], list[tf.Tensor]]

# After so many good steps the loss scale doubles (Micikevicius et al. 2018,
# arXiv:1710.03740).
_LOSS_SCALE_GROWTH_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What the update does; the fields are those of `config.optimizer`."""

    learning_rate: optimizer.LearningRateFn
    momentum: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    clip_norm: float


def make_train_steps(
    strategy: tf.distribute.Strategy,
    state: TrainState,
    augment: Augment,
    settings: OptimizerSettings,
    *,
    global_batch_size: int,
    jit_compile: bool,
) -> TrainSteps:
    """Returns the compiled function that trains for some steps.

    Args:
      strategy: over whose replicas a step runs.
      state: what a step changes.
      augment: see `augment.make_augment`.
      settings: see `OptimizerSettings`.
      global_batch_size: images a step, B.
      jit_compile: XLA for the forward and backward pass, which is pure.

    Returns:
      (iterator over `TrainBatch`, int32 [] number of steps) -> None. It stops
      updating once a loss or gradient is not finite: see
      `TrainState.first_bad_step`.
    """
    replicas = strategy.num_replicas_in_sync
    forward_backward = _make_forward_backward(
        state,
        label_smoothing=settings.label_smoothing,
        global_batch_size=global_batch_size,
        num_replicas=replicas,
    )
    if jit_compile:
        forward_backward = tf.function(
            forward_backward, jit_compile=True, autograph=False
        )
    bucket = _Bucket([v.shape for v in state.trainable + state.running])
    update = _make_update(state, settings)

    def replica_sums(batch: TrainBatch) -> list[tf.Tensor] | tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = augment(batch, state.step, replica)
        scale = state.loss_scale.get("scale", tf.constant(1.0))
        sums = forward_backward(
            images, batch.label, tf.convert_to_tensor(scale)
        )
        # One replica has nothing to sum, and need not copy its gradients.
        return sums if replicas == 1 else bucket.pack(sums)

    def replica_update(
        step: tf.Variable,
        sums: list[tf.Tensor] | tf.Tensor,
        copies: dict[str, Any],
    ) -> None:
        tensors = sums if replicas == 1 else bucket.unpack(sums)
        update(step, tensors, Replicated(**copies))

    def train_step(batch: TrainBatch) -> None:
        sums = strategy.run(replica_sums, args=(batch,))
        if replicas > 1:
            sums = strategy.extended.reduce_to(
                tf.distribute.ReduceOp.SUM, sums, destinations=state.step
            )
        # A plain dict: tf.distribute looks into it for each replica's copies.
        variables = dict(vars(state.replicated()))
        strategy.extended.update(
            state.step, replica_update, args=(sums, variables)
        )

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


def smoothed_targets(labels: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    """Returns float32 [b, 10] class distributions (Szegedy et al. 2016).

    Args:
      labels: int32 [b], 0 to 9.
      label_smoothing: share spread evenly over the classes, 0 to 1, exclusive.
    """
    on = 1 - label_smoothing + label_smoothing / NUM_CLASSES
    return tf.one_hot(labels, NUM_CLASSES, on, label_smoothing / NUM_CLASSES)


def _make_forward_backward(
    state: TrainState,
    *,
    label_smoothing: float,
    global_batch_size: int,
    num_replicas: int,
) -> _ForwardBackward:
    """Returns the pure part of a step: writes no variable, sums nothing."""

    def forward_backward(
        images: tf.Tensor, labels: tf.Tensor, loss_scale: tf.Tensor
    ) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits, moments = state.model(images, training=True)
            targets = smoothed_targets(labels, label_smoothing)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / global_batch_size
            scaled = loss * loss_scale
        gradients = tape.gradient(scaled, state.trainable)
        hits = tf.equal(
            tf.argmax(logits, axis=-1, output_type=tf.int32), labels
        )
        correct = tf.reduce_sum(tf.cast(hits, tf.float32))
        moments = [moment / num_replicas for moment in moments]
        return [*gradients, *moments, loss, correct]

    return forward_backward


class _Bucket:
    """Packs a step's tensors into one vector, so that one sum does for all."""

    def __init__(self, shapes: list[tf.TensorShape]) -> None:
        # Behind gradients and moments: loss and count of right answers.
        self._shapes = [*shapes, tf.TensorShape([]), tf.TensorShape([])]

    def pack(self, tensors: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)

    def unpack(self, vector: tf.Tensor) -> list[tf.Tensor]:
        parts = tf.split(vector, [s.num_elements() for s in self._shapes])
        return [
            tf.reshape(part, shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]


def _make_update(
    state: TrainState, settings: OptimizerSettings
) -> Callable[[tf.Variable, list[tf.Tensor], Replicated], None]:
    """Returns what one replica does to its copies once the sums are there."""
    decayed = model_lib.decayed(state.model)
    running_momentum = model_lib.running_momentum(state.model)

    def apply(
        step: tf.Variable, sums: list[tf.Tensor], variables: Replicated
    ) -> None:
        count = len(variables.trainable)
        gradients, moments = sums[:count], sums[count:-2]
        gradients = _rescaled(gradients, variables.loss_scale, settings)
        rate = settings.learning_rate(step)
        for variable, buffer, gradient, decays in zip(
            variables.trainable,
            variables.momentum,
            gradients,
            decayed,
            strict=True,
        ):
            optimizer.sgd_update(
                variable,
                buffer,
                gradient,
                learning_rate=rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay if decays else 0.0,
            )
        for variable, moment in zip(variables.running, moments, strict=True):
            variable.assign_sub((1 - running_momentum) * (variable - moment))
        if variables.ema:
            now = variables.trainable + variables.running
            for average, variable in zip(variables.ema, now, strict=True):
                optimizer.ema_update(
                    average, variable, decay=settings.ema_decay, step=step
                )
        *_, loss, correct = sums
        variables.window["loss"].assign_add(loss)
        variables.window["correct"].assign_add(correct)
        variables.window["steps"].assign_add(1.0)
        _grow(variables.loss_scale)

    def skip(step: tf.Variable, variables: Replicated) -> None:
        if not variables.loss_scale:
            variables.first_bad_step.assign(step)
            return
        # Overflow is how float16 finds its scale; at 1 it is a real one.
        scale = variables.loss_scale["scale"]
        variables.first_bad_step.assign(
            tf.where(scale > 1.0, variables.first_bad_step, step)
        )
        scale.assign(tf.maximum(1.0, scale / 2))
        variables.loss_scale["good_steps"].assign(0.0)

    def update(
        step: tf.Variable, sums: list[tf.Tensor], variables: Replicated
    ) -> None:
        gradients = sums[: len(variables.trainable)]
        *_, loss, _ = sums
        finite = tf.math.is_finite(_square_norm(gradients) + loss)
        # After a bad step nothing changes any more, so that what is in
        # memory is the state before it.
        tf.cond(
            variables.first_bad_step < 0,
            lambda: tf.cond(
                finite,
                _branch(lambda: apply(step, sums, variables)),
                _branch(lambda: skip(step, variables)),
            ),
            _branch(lambda: None),
        )
        step.assign_add(1)

    return update


def _square_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([2 * tf.nn.l2_loss(g) for g in gradients])


def _rescaled(
    gradients: list[tf.Tensor],
    loss_scale: dict[str, tf.Variable],
    settings: OptimizerSettings,
) -> list[tf.Tensor]:
    """Takes the loss scale out of the sums, then clips their global norm."""
    if not loss_scale and not settings.clip_norm:
        return gradients
    factor = 1 / loss_scale["scale"] if loss_scale else tf.constant(1.0)
    if settings.clip_norm:
        norm = tf.sqrt(_square_norm(gradients)) * factor
        factor *= settings.clip_norm / tf.maximum(norm, settings.clip_norm)
    return [gradient * factor for gradient in gradients]


def _grow(loss_scale: dict[str, tf.Variable]) -> None:
    """Counts a good step, and doubles the scale after enough of them."""
    if not loss_scale:
        return
    scale, good_steps = loss_scale["scale"], loss_scale["good_steps"]
    good = good_steps.read_value() + 1
    grown = good >= _LOSS_SCALE_GROWTH_STEPS
    scale.assign(tf.where(grown, scale * 2, scale))
    good_steps.assign(tf.where(grown, 0.0, good))


def _branch(work: Callable[[], None]) -> Callable[[], tf.Tensor]:
    """Gives `work` a result, as both branches of a tf.cond must have one."""

    def run() -> tf.Tensor:
        work()
        return tf.constant(0)

    return run
