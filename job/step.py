"""One training step: forward, backward, sum over replicas, update.

The global batch is the unit. A replica's loss is the sum over its examples
divided by the *global* batch size, so the sum of the replicas' gradients is the
gradient of the mean over the global batch, whatever the number of replicas.
The batch moments of the normalization layers ride in the same bucket: running
statistics are equal on every replica after every step, and a checkpoint or a
different number of replicas sees the same values.

    with strategy.scope():
        state = TrainState(model, optimizer_settings)
    train_steps = make_train_steps(strategy, state, ...)
    train_steps(iterator, tf.constant(10))     # ten steps on the device
"""

import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from job import model as model_lib
from job import optimizer
from job.augment import Augment
from job.data.dataset import NUM_CLASSES
from job.data.pipeline import TrainBatch

TrainSteps = Callable[[Iterator[TrainBatch], tf.Tensor], None]

# Dynamic loss scaling, as in Micikevicius et al. 2018 (arXiv:1710.03740).
_FIRST_LOSS_SCALE = 2.0**15
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


class TrainState:
    """Every variable of a run; what a checkpoint holds, and nothing else.

    Create it under `strategy.scope()`. All variables are float32 or int64, and
    equal on all replicas between two steps.

    Attributes:
      model: the network that is trained.
      step: int64 [], steps done.
      momentum: a buffer for each trainable variable.
      ema: an average of each trainable and each running variable; empty
        where `ema_decay` is 0.
      window: sums since the last logged step: "loss" (of the steps' means),
        "correct" (examples), "steps". In the checkpoint, so that a line that was
        begun before a kill is finished as if there had been none.
      loss_scale: "scale", and "good_steps" since it changed; float16 only.
      first_bad_step: int64 [], step whose loss or gradient was not finite; -1.
    """

    def __init__(
        self, model: keras.Model, *, ema_decay: float, loss_scaling: bool
    ) -> None:
        self.model = model
        self.trainable = [v.value for v in model.trainable_variables]
        self.running = [v.value for v in model.non_trainable_variables]
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.first_bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.window = {
            name: tf.Variable(0.0, trainable=False)
            for name in ("loss", "correct", "steps")
        }
        self.loss_scale = (
            {
                "scale": tf.Variable(_FIRST_LOSS_SCALE, trainable=False),
                "good_steps": tf.Variable(0.0, trainable=False),
            }
            if loss_scaling
            else {}
        )
        self.momentum = [
            tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.trainable
        ]
        averaged = self.trainable + self.running if ema_decay else []
        self.ema = [
            tf.Variable(v.read_value(), trainable=False) for v in averaged
        ]

    def variables(self) -> dict[str, tf.Variable]:
        """Returns every variable by the name that checkpoints give it."""
        trainable = [v.path for v in self.model.trainable_variables]
        running = [v.path for v in self.model.non_trainable_variables]
        named = {"step": self.step, "first_bad_step": self.first_bad_step}
        named |= {f"window/{k}": v for k, v in self.window.items()}
        named |= {f"loss_scale/{k}": v for k, v in self.loss_scale.items()}
        groups = {
            "model": (trainable + running, self.trainable + self.running),
            "momentum": (trainable, self.momentum),
            "ema": (trainable + running if self.ema else [], self.ema),
        }
        for group, (paths, variables) in groups.items():
            for path, variable in zip(paths, variables, strict=True):
                named[f"{group}/{path}"] = variable
        return named

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns a copy of every variable, in host memory."""
        return {name: v.numpy() for name, v in self.variables().items()}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """Sets every variable, on every replica.

        Raises:
          ValueError: a variable is missing, is one too many, or has another shape or
            type; nothing has been set then. The message names them.
        """
        named = self.variables()
        wrong = [f"{name} is missing" for name in sorted(named.keys() - tensors.keys())]
        wrong += [f"{name} is unknown" for name in sorted(tensors.keys() - named.keys())]
        for name in sorted(named.keys() & tensors.keys()):
            have, want = tensors[name], named[name]
            if have.shape != tuple(want.shape) or have.dtype != want.dtype:
                wrong.append(
                    f"{name} is {have.dtype} {list(have.shape)}, not"
                    f" {want.dtype.name} {want.shape.as_list()}"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        for name, variable in named.items():
            variable.assign(tensors[name])

    def evaluated(self) -> list[tf.Variable]:
        """Returns the weights and moments to score: averages where there are any."""
        return self.ema or self.trainable + self.running


def smoothed_targets(labels: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    """Returns float32 [b, 10] class distributions (Szegedy et al. 2016).

    Args:
      labels: int32 [b], 0 to 9.
      label_smoothing: share spread evenly over the classes, 0 to 1, exclusive.
    """
    on = 1 - label_smoothing + label_smoothing / NUM_CLASSES
    return tf.one_hot(labels, NUM_CLASSES, on, label_smoothing / NUM_CLASSES)


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
      updating once a loss or gradient is not finite: see `first_bad_step`.
    """
    replicas = strategy.num_replicas_in_sync
    # One replica has nothing to sum, and need not copy its gradients together.
    shapes = [v.shape for v in state.trainable + state.running]

    def forward_backward(images: tf.Tensor, labels: tf.Tensor, loss_scale: tf.Tensor):
        with tf.GradientTape() as tape:
            logits, moments = state.model(images, training=True)
            targets = smoothed_targets(labels, settings.label_smoothing)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / global_batch_size
            scaled = loss * loss_scale
        gradients = tape.gradient(scaled, state.trainable)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.float32))
        moments = [moment / replicas for moment in moments]
        return [*gradients, *moments, loss, correct]

    if jit_compile:
        forward_backward = tf.function(
            forward_backward, jit_compile=True, autograph=False
        )

    def replica_step(batch: TrainBatch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = augment(batch, state.step, replica)
        scale = state.loss_scale.get("scale", tf.constant(1.0))
        sums = forward_backward(images, batch.label, tf.convert_to_tensor(scale))
        if replicas == 1:
            return sums
        return tf.concat([tf.reshape(s, [-1]) for s in sums], axis=0)

    def unpack(summed) -> list[tf.Tensor]:
        if replicas == 1:
            return summed
        sizes = [shape.num_elements() for shape in shapes] + [1, 1]
        parts = tf.split(summed, sizes)
        return [tf.reshape(p, s) for p, s in zip(parts, [*shapes, [], []], strict=True)]

    def update_replica(step: tf.Variable, summed, variables: "_Local") -> None:
        *tensors, loss, correct = unpack(summed)
        gradients = tensors[: len(variables.trainable)]
        moments = tensors[len(variables.trainable) :]
        scale = variables.loss_scale.get("scale")
        square_norm = tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients])
        finite = tf.math.is_finite(square_norm) & tf.math.is_finite(loss)

        def apply() -> tf.Tensor:
            factor = tf.constant(1.0) if scale is None else 1 / scale
            if settings.clip_norm:
                norm = tf.sqrt(square_norm) * factor
                factor *= settings.clip_norm / tf.maximum(norm, settings.clip_norm)
            wanted = scale is not None or settings.clip_norm
            _apply_gradients(
                variables,
                [g * factor for g in gradients] if wanted else gradients,
                settings,
                step,
            )
            for variable, moment in zip(variables.running, moments, strict=True):
                variable.assign_sub(
                    (1 - variables.running_momentum) * (variable - moment)
                )
            if variables.ema:
                now = variables.trainable + variables.running
                for average, variable in zip(variables.ema, now, strict=True):
                    optimizer.ema_update(
                        average, variable, decay=settings.ema_decay, step=step
                    )
            variables.window["loss"].assign_add(loss)
            variables.window["correct"].assign_add(correct)
            variables.window["steps"].assign_add(1.0)
            if scale is not None:
                _grow_loss_scale(variables.loss_scale)
            return tf.constant(True)

        def skip() -> tf.Tensor:
            if scale is None:
                variables.first_bad_step.assign(step)
            else:
                # Overflow is how float16 finds its scale; at 1 it is real.
                bad = tf.where(scale > 1.0, variables.first_bad_step, step)
                variables.first_bad_step.assign(bad)
                scale.assign(tf.maximum(1.0, scale / 2))
                variables.loss_scale["good_steps"].assign(0.0)
            return tf.constant(False)

        # After a bad step nothing changes any more, so that what is in
        # memory is the state before it.
        tf.cond(
            variables.first_bad_step < 0, lambda: tf.cond(finite, apply, skip), _no
        )
        step.assign_add(1)

    local = _Local(
        trainable=state.trainable,
        running=state.running,
        momentum=state.momentum,
        ema=state.ema,
        window=state.window,
        loss_scale=state.loss_scale,
        first_bad_step=state.first_bad_step,
        decayed=model_lib.decayed(state.model),
        running_momentum=_running_momentum(state.model),
    )

    def train_step(batch: TrainBatch) -> None:
        sums = strategy.run(replica_step, args=(batch,))
        if replicas > 1:
            sums = strategy.extended.reduce_to(
                tf.distribute.ReduceOp.SUM, sums, destinations=state.step
            )
        _update(strategy, update_replica, state.step, sums, local)

    @tf.function(autograph=False)
    def train_steps(iterator: Iterator[TrainBatch], num_steps: tf.Tensor) -> None:
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


@dataclasses.dataclass(frozen=True)
class _Local:
    """The variables of a `TrainState`, or one replica's copies of them."""

    trainable: list[tf.Variable]
    running: list[tf.Variable]
    momentum: list[tf.Variable]
    ema: list[tf.Variable]
    window: dict[str, tf.Variable]
    loss_scale: dict[str, tf.Variable]
    first_bad_step: tf.Variable
    decayed: list[bool]
    running_momentum: float


def _update(strategy, update_replica, step, sums, local: _Local) -> None:
    """Calls `update_replica` once a replica, with that replica's copies."""
    fields = {f.name: getattr(local, f.name) for f in dataclasses.fields(local)}

    def on_replica(step_copy, sums_copy, copies):
        update_replica(step_copy, sums_copy, _Local(**copies))

    strategy.extended.update(step, on_replica, args=(sums, fields))


def _apply_gradients(
    variables: _Local,
    gradients: list[tf.Tensor],
    settings: OptimizerSettings,
    step: tf.Variable,
) -> None:
    rate = settings.learning_rate(step)
    for variable, buffer, gradient, decayed in zip(
        variables.trainable,
        variables.momentum,
        gradients,
        variables.decayed,
        strict=True,
    ):
        optimizer.sgd_update(
            variable,
            buffer,
            gradient,
            learning_rate=rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay if decayed else 0.0,
        )


def _grow_loss_scale(loss_scale: dict[str, tf.Variable]) -> None:
    good = loss_scale["good_steps"].assign_add(1.0)
    grown = good >= _LOSS_SCALE_GROWTH_STEPS
    scale = loss_scale["scale"]
    scale.assign(tf.where(grown, scale * 2, scale))
    loss_scale["good_steps"].assign(tf.where(grown, 0.0, good))


def _running_momentum(model: keras.Model) -> float:
    """Returns what the model's normalization layers agree on; 0.0 with none."""
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, model_lib.BatchNormalization)
    ]
    return layers[0].momentum if layers else 0.0


def _no() -> tf.Tensor:
    return tf.constant(False)
