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
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from job.augment import Augment, Augmented
from job.augment.mixing import partner
from job.data.dataset import NUM_CLASSES
from job.data.pipeline import TrainBatch
from job.model import vgg
from job.model.resize import Resize
from job.model.variables import (
    batch_norm_momentum,
    variable_blocks,
    weight_decay_mask,
)
from job.training import optimizer
from job.training.phases import Group
from job.training.state import Replicated, TrainState

TrainSteps = Callable[[Iterator[TrainBatch], tf.Tensor], None]

# (augmented images, int32 [b] labels, float32 [b, d] noise of the dropout, if
# any, float32 [] loss scale) -> the tensors to sum over replicas: gradients,
# batch moments, loss, count of right answers.
_ForwardBackward = Callable[
    [Augmented, tf.Tensor, tf.Tensor | None, tf.Tensor], list[tf.Tensor]
]

# Tells dropout's draws from others with the same seed.
_DROPOUT = 0x44524F50

# After so many good steps the loss scale doubles (Micikevicius et al. 2018,
# arXiv:1710.03740).
_LOSS_SCALE_GROWTH_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What the update does; the fields are those of `config.optimizer`.

    `groups` says of each block, and of the head, how its rate differs.
    """

    name: str
    learning_rate: optimizer.LearningRateFn
    groups: Mapping[str, Group]
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
    network: keras.Model,
    resize: Resize,
    open_blocks: Collection[str],
    seed: int,
    global_batch_size: int,
    jit_compile: bool,
) -> TrainSteps:
    """Returns the compiled function that trains for some steps.

    Args:
      strategy: over whose replicas a step runs.
      state: what a step changes.
      augment: see `augment.make_augment`.
      settings: see `OptimizerSettings`.
      network: what the batch goes through: `state.model`, or its head where
        the batches hold its features (see `vgg.split_base_and_head`).
      resize: what is done to the batch before; see `job.resize`.
      open_blocks: which blocks train (see `model.spec`); the others are
        left as they are, and no gradient is computed for them.
      seed: of the dropout.
      global_batch_size: images a step, B.
      jit_compile: XLA for all that no other replica is asked about: the
        forward and backward pass, and the update.

    Returns:
      (iterator over `TrainBatch`, int32 [] number of steps) -> None. It stops
      updating once a loss or gradient is not finite: see
      `TrainState.first_bad_step`.
    """
    replicas = strategy.num_replicas_in_sync
    opened = [block in open_blocks for block in variable_blocks(state.model)]
    places = np.flatnonzero(opened)
    trained = [state.model.trainable_variables[place] for place in places]
    forward_backward = _make_forward_backward(
        network,
        resize,
        trained,
        label_smoothing=settings.label_smoothing,
        global_batch_size=global_batch_size,
        num_replicas=replicas,
    )
    if jit_compile:
        forward_backward = tf.function(
            forward_backward, jit_compile=True, autograph=False
        )
    bucket = _Bucket(
        [tf.TensorShape(v.shape) for v in trained]
        + [v.shape for v in state.running]
    )
    update = _make_update(state, settings, opened)
    noise_width = vgg.noise_width(network)

    def replica_sums(batch: TrainBatch) -> list[tf.Tensor] | tf.Tensor:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        augmented = augment(batch, state.step, replica)
        noise = (
            dropout_noise(
                [global_batch_size, noise_width],
                seed=seed,
                step=state.step,
                replica=replica,
                num_replicas=replicas,
            )
            if noise_width
            else None
        )
        scale = state.loss_scale.get("scale", tf.constant(1.0))
        sums = forward_backward(
            augmented, batch.label, noise, tf.convert_to_tensor(scale)
        )
        # One replica has nothing to sum, and need not copy its gradients.
        return sums if replicas == 1 else bucket.pack(sums)

    def replica_update(
        step: tf.Variable,
        sums: list[tf.Tensor] | tf.Tensor,
        copies: dict[str, Any],
    ) -> None:
        def change(sums: list[tf.Tensor] | tf.Tensor) -> None:
            tensors = sums if replicas == 1 else bucket.unpack(sums)
            update(step, tensors, Replicated(**copies))

        if jit_compile:
            # Else hundreds of small kernels, each of which costs a launch.
            change = tf.function(change, jit_compile=True, autograph=False)
        change(sums)

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


def dropout_noise(
    shape: list[int],
    *,
    seed: int,
    step: tf.Tensor,
    replica: tf.Tensor,
    num_replicas: int,
) -> tf.Tensor:
    """Returns one replica's rows of a step's random numbers.

    Drawn for the global batch, so that they do not hang on the replicas.

    Args:
      shape: of the global batch, [B, d].
      seed: of the run.
      step: int64 [].
      replica: int32 [], 0 to num_replicas - 1.
      num_replicas: R.

    Returns:
      float32 [B / R, d], uniform, 0 to 1, exclusive.
    """
    key = tf.random.experimental.stateless_fold_in(
        tf.constant([seed, _DROPOUT], tf.int64), step, alg="philox"
    )
    drawn = tf.random.stateless_uniform(shape, key, alg="philox")
    size = shape[0] // num_replicas
    first = tf.cast(replica, tf.int32) * size
    return tf.ensure_shape(drawn[first : first + size], [size, shape[1]])


def mixed_targets(targets: tf.Tensor, share: tf.Tensor | None) -> tf.Tensor:
    """Mixes the targets as the images are mixed (see `augment.Augmented`).

    Args:
      targets: float32 [b, 10].
      share: float32 [b], of the image's own target; None: all of it.
    """
    if share is None:
        return targets
    other = partner(targets)
    return other + share[:, None] * (targets - other)


def _hits(
    logits: tf.Tensor, labels: tf.Tensor, share: tf.Tensor | None
) -> tf.Tensor:
    """Returns float32 [b]: how much of the image was recognized, 0 to 1."""
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if share is None:
        return tf.cast(tf.equal(best, labels), tf.float32)
    classes = mixed_targets(tf.one_hot(labels, NUM_CLASSES), share)
    return tf.reduce_sum(tf.one_hot(best, NUM_CLASSES) * classes, axis=1)


def _make_forward_backward(
    network: keras.Model,
    resize: Resize,
    trained: list[keras.Variable],
    *,
    label_smoothing: float,
    global_batch_size: int,
    num_replicas: int,
) -> _ForwardBackward:
    """Returns the pure part of a step: writes no variable, sums nothing."""
    weights = [variable.value for variable in trained]

    def forward_backward(
        augmented: Augmented,
        labels: tf.Tensor,
        noise: tf.Tensor | None,
        loss_scale: tf.Tensor,
    ) -> list[tf.Tensor]:
        images, share = augmented
        images = resize(images)
        inputs = images if noise is None else [images, noise]
        targets = smoothed_targets(labels, label_smoothing)
        targets = mixed_targets(targets, share)
        # Only what trains is watched: below it nothing is recorded.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, moments = network(inputs, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / global_batch_size
            scaled = loss * loss_scale
        gradients = tape.gradient(scaled, weights)
        correct = tf.reduce_sum(_hits(logits, labels, share))
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
    state: TrainState, settings: OptimizerSettings, opened: list[bool]
) -> Callable[[tf.Variable, list[tf.Tensor], Replicated], None]:
    """Returns what one replica does to its copies once the sums are there."""
    groups = [settings.groups[block] for block in variable_blocks(state.model)]
    decay = [
        settings.weight_decay if decays else 0.0
        for decays in weight_decay_mask(state.model)
    ]
    running_momentum = batch_norm_momentum(state.model)
    places = np.flatnonzero(opened)
    # Of `trainable` and `running`: what a step changes.
    count = len(state.trainable)
    changed = [*places, *range(count, count + len(state.running))]

    def apply(
        step: tf.Variable, sums: list[tf.Tensor], variables: Replicated
    ) -> None:
        gradients, moments = sums[: len(places)], sums[len(places) : -2]
        gradients = _rescaled(gradients, variables.loss_scale, settings)
        rate = settings.learning_rate(step) * variables.learning_rate_factor
        for i, gradient in zip(places, gradients, strict=True):
            own_rate = groups[i].rate(rate, step)
            if settings.name == "adam":
                optimizer.adam_update(
                    variables.trainable[i],
                    variables.momentum[i],
                    variables.second_moment[i],
                    gradient,
                    learning_rate=own_rate,
                    momentum=settings.momentum,
                    weight_decay=decay[i],
                    step=step - (groups[i].opens or 0),
                )
            else:
                optimizer.sgd_update(
                    variables.trainable[i],
                    variables.momentum[i],
                    gradient,
                    learning_rate=own_rate,
                    momentum=settings.momentum,
                    weight_decay=decay[i],
                )
        for variable, moment in zip(variables.running, moments, strict=True):
            variable.assign_sub((1 - running_momentum) * (variable - moment))
        average(step, variables)
        *_, loss, correct = sums
        variables.window["loss"].assign_add(loss)
        variables.window["correct"].assign_add(correct)
        variables.window["steps"].assign_add(1.0)
        _grow(variables.loss_scale)

    def average(step: tf.Variable, variables: Replicated) -> None:
        now = variables.trainable + variables.running
        if variables.ema:
            kept = optimizer.ema_kept(step, decay=settings.ema_decay)
            for i in changed:
                optimizer.ema_update(variables.ema[i], now[i], kept=kept)

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
        gradients = sums[: len(places)]
        *_, loss, _ = sums
        finite = tf.math.is_finite(_square_norm(gradients) + loss)
        # After a bad step nothing changes any more, so that what is in
        # memory is the state before it.
        going = variables.first_bad_step < 0
        # One condition decides a good step: under XLA the host of a GPU waits
        # for each that is met.
        tf.cond(
            going & finite,
            _branch(lambda: apply(step, sums, variables)),
            lambda: tf.cond(
                going,
                _branch(lambda: skip(step, variables)),
                _branch(lambda: None),
            ),
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
