"""Update of one replica's variables after the sum over replicas.

update = Update(network, settings, trainable_blocks={"head", "block5"})
update(state.step, sums, state.replica_variables())
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import keras
import tensorflow as tf

from job.model.variables import (
    batch_norm_momentum,
    convolution_mask,
    trainable_indices,
    variable_blocks,
    weight_decay_mask,
)
from job.training import optimizer
from job.training.loss import StepSums
from job.training.phases import Group
from job.training.state import ReplicaVariables

# Number of good steps after which the loss scale doubles (Micikevicius et al.
# 2018, arXiv:1710.03740).
_LOSS_SCALE_GROWTH_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the update, named as in `config.optimizer`.

    Attributes:
      learning_rate: Learning rate as a function of the step.
      groups: Training schedule of each block and of the head.
      muon_ratio: Ratio of Muon's learning rate to that of the schedule. If 0.0,
        SGD updates the kernels of the convolutions.
    """

    name: str
    learning_rate: optimizer.LearningRateFn
    groups: Mapping[str, Group]
    muon_ratio: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    clip_norm: float


class Update:
    """Update of one replica's variables by the sums of a step."""

    def __init__(
        self,
        network: keras.Model,
        settings: OptimizerSettings,
        *,
        trainable_blocks: Collection[str],
    ) -> None:
        """Looks up the settings of each variable.

        Args:
          network: Network whose variables the state holds.
          settings: Settings of the update.
          trainable_blocks: Names of the blocks to train; see `model.spec`. The
            variables of the others do not change.
        """
        self._settings = settings
        self._groups = [
            settings.groups[block] for block in variable_blocks(network)
        ]
        self._weight_decay = [
            settings.weight_decay if decays else 0.0
            for decays in weight_decay_mask(network)
        ]
        self._uses_muon = [
            settings.muon_ratio > 0 and is_kernel
            for is_kernel in convolution_mask(network)
        ]
        self._batch_norm_momentum = batch_norm_momentum(network)
        self._indices = trainable_indices(network, trainable_blocks)
        first = len(network.trainable_variables)
        count = len(network.non_trainable_variables)
        # These indices count the trainable variables, then moving statistics.
        self._changing = [*self._indices, *range(first, first + count)]

    def __call__(
        self, step: tf.Variable, sums: StepSums, variables: ReplicaVariables
    ) -> None:
        """Updates the variables, or skips a step that is not finite.

        Args:
          step: Number of completed steps, int64 [], which is increased by 1.
          sums: Sums over all replicas, with the gradients in the order of the
            trained variables.
          variables: Variables of this replica.
        """
        finite = tf.math.is_finite(_square_norm(sums.gradients) + sums.loss)
        # After a bad step nothing changes, so that the state is the one before
        # it.
        all_finite_so_far = variables.first_bad_step < 0
        gradients = _rescaled(
            sums.gradients, variables.loss_scale, self._settings.clip_norm
        )
        # On a GPU, XLA compiles these conditions to selects, for which the host
        # does not wait; see tests/gpu_ready. Matrix products inside would keep
        # them.
        directions = self._muon_directions(gradients, variables)
        tf.cond(
            all_finite_so_far & finite,
            _branch(
                lambda: self._apply(
                    step, sums, gradients, directions, variables
                )
            ),
            lambda: tf.cond(
                all_finite_so_far,
                _branch(lambda: _skip(step, variables)),
                _branch(lambda: None),
            ),
        )
        step.assign_add(1)

    def _muon_directions(
        self, gradients: list[tf.Tensor], variables: ReplicaVariables
    ) -> dict[int, tf.Tensor]:
        """Returns the direction of each kernel that Muon updates."""
        return {
            i: optimizer.muon_direction(
                variables.momentum[i],
                gradient,
                momentum=self._settings.momentum,
            )
            for i, gradient in zip(self._indices, gradients, strict=True)
            if self._uses_muon[i]
        }

    def _apply(
        self,
        step: tf.Variable,
        sums: StepSums,
        gradients: list[tf.Tensor],
        directions: dict[int, tf.Tensor],
        variables: ReplicaVariables,
    ) -> None:
        self._update_weights(step, gradients, directions, variables)
        kept = self._batch_norm_momentum
        for variable, value in zip(
            variables.moving_statistics, sums.statistics, strict=True
        ):
            variable.assign_sub((1 - kept) * (variable - value))
        if variables.ema:
            self._update_averages(step, variables)
        variables.window["loss"].assign_add(sums.loss)
        variables.window["correct"].assign_add(sums.correct)
        variables.window["steps"].assign_add(1.0)
        _grow(variables.loss_scale)

    def _update_weights(
        self,
        step: tf.Variable,
        gradients: list[tf.Tensor],
        directions: dict[int, tf.Tensor],
        variables: ReplicaVariables,
    ) -> None:
        scheduled = self._settings.learning_rate(step)
        scheduled *= variables.learning_rate_factor
        for i, gradient in zip(self._indices, gradients, strict=True):
            group = self._groups[i]
            if self._settings.name == "adam":
                optimizer.adam_update(
                    variables.trainable[i],
                    variables.momentum[i],
                    variables.second_moment[i],
                    gradient,
                    learning_rate=group.learning_rate(scheduled, step),
                    momentum=self._settings.momentum,
                    weight_decay=self._weight_decay[i],
                    step=step - (group.unfreeze_step or 0),
                )
            elif i in directions:
                optimizer.muon_update(
                    variables.trainable[i],
                    variables.momentum[i],
                    gradient,
                    directions[i],
                    learning_rate=self._settings.muon_ratio
                    * group.learning_rate(scheduled, step),
                    momentum=self._settings.momentum,
                )
            else:
                optimizer.sgd_update(
                    variables.trainable[i],
                    variables.momentum[i],
                    gradient,
                    learning_rate=group.learning_rate(scheduled, step),
                    momentum=self._settings.momentum,
                    weight_decay=self._weight_decay[i],
                )

    def _update_averages(
        self, step: tf.Variable, variables: ReplicaVariables
    ) -> None:
        values = variables.trainable + variables.moving_statistics
        decay = optimizer.ema_decay(step, decay=self._settings.ema_decay)
        for i in self._changing:
            optimizer.ema_update(variables.ema[i], values[i], decay=decay)


def _skip(step: tf.Variable, variables: ReplicaVariables) -> None:
    """Records a bad step, or halves the loss scale after an overflow."""
    if not variables.loss_scale:
        variables.first_bad_step.assign(step)
        return
    # Overflows lower the loss scale of float16. At scale 1 they are errors.
    scale = variables.loss_scale["scale"]
    variables.first_bad_step.assign(
        tf.where(scale > 1.0, variables.first_bad_step, step)
    )
    scale.assign(tf.maximum(1.0, scale / 2))
    variables.loss_scale["good_steps"].assign(0.0)


def _square_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([2 * tf.nn.l2_loss(g) for g in gradients])


def _rescaled(
    gradients: list[tf.Tensor],
    loss_scale: dict[str, tf.Variable],
    clip_norm: float,
) -> list[tf.Tensor]:
    """Divides gradients by the loss scale and clips their global norm."""
    if not loss_scale and not clip_norm:
        return gradients
    factor = 1 / loss_scale["scale"] if loss_scale else tf.constant(1.0)
    if clip_norm:
        norm = tf.sqrt(_square_norm(gradients)) * factor
        factor *= clip_norm / tf.maximum(norm, clip_norm)
    return [gradient * factor for gradient in gradients]


def _grow(loss_scale: dict[str, tf.Variable]) -> None:
    """Counts a good step, and doubles the scale after a number of them."""
    if not loss_scale:
        return
    scale, good_steps = loss_scale["scale"], loss_scale["good_steps"]
    good = good_steps.read_value() + 1
    grows = good >= _LOSS_SCALE_GROWTH_STEPS
    scale.assign(tf.where(grows, scale * 2, scale))
    good_steps.assign(tf.where(grows, 0.0, good))


def _branch(work: Callable[[], None]) -> Callable[[], tf.Tensor]:
    """Returns a function with a result, as tf.cond requires for a branch."""

    def run() -> tf.Tensor:
        work()
        return tf.constant(0)

    return run
