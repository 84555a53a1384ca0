"""Phases of a run, each with its trainable blocks and image size.

A run is divided into phases at the steps where either of them changes. Each
phase has a compiled step of its own, so frozen blocks have no backward pass and
small images reduce the cost.

    groups = create_groups(unfreeze_epochs, ...)       # schedule of each block
    phases = create_phases(groups, sizes=(64,), until=(500,), final_size=128)
    phases[0].trainable_blocks                         # {"head", "block5"}
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf
from absl import logging

from job.model import flops
from job.model.spec import BLOCK_NAMES, HEAD


@dataclasses.dataclass(frozen=True)
class Group:
    """Training schedule of the variables of one block, or of the head.

    Attributes:
      unfreeze_step: Step at which training begins. If None, the block stays
        frozen.
      learning_rate_scale: Multiplier of the scheduled learning rate.
      warmup_steps: Number of steps of linear warm-up after `unfreeze_step`.
    """

    unfreeze_step: int | None = 0
    learning_rate_scale: float = 1.0
    warmup_steps: int = 0

    def learning_rate(self, scheduled: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of this group, float32 [].

        Args:
          scheduled: Learning rate of the schedule, float32 [].
          step: Step, int64 [], `unfreeze_step` or later.
        """
        rate = scheduled
        if self.learning_rate_scale != 1.0:
            rate *= self.learning_rate_scale
        if self.warmup_steps:
            since = tf.cast(step - (self.unfreeze_step or 0) + 1, tf.float32)
            rate *= tf.minimum(1.0, since / self.warmup_steps)
        return rate


@dataclasses.dataclass(frozen=True)
class Phase:
    """Part of a run with the same compiled step.

    Attributes:
      first_step: First step.
      input_size: Height and width of the network's input in pixels.
      trainable_blocks: Names of the trainable blocks, including HEAD.
    """

    first_step: int
    input_size: int
    trainable_blocks: frozenset[str]


def phase_steps(
    phases: Sequence[Phase], train_steps: int
) -> Iterator[tuple[int, Phase]]:
    """Yields the number of steps of each phase, and the phase.

    Args:
      phases: Phases of the run, in order.
      train_steps: Number of steps of the run. Phases after its end have 0.
    """
    ends = [phase.first_step for phase in phases[1:]] + [train_steps]
    for phase, end in zip(phases, ends, strict=True):
        yield max(0, min(end, train_steps) - phase.first_step), phase


def create_groups(
    unfreeze_epochs: Mapping[str, float],
    *,
    layer_decay: float,
    warmup_epochs: float,
    steps: Callable[[float], int],
) -> dict[str, Group]:
    """Returns the training schedule of each block and of the head.

    Args:
      unfreeze_epochs: Epoch at which each block begins to train. If infinity,
        the block stays frozen.
      layer_decay: Ratio of a block's learning rate to that of the next block
        towards the output.
      warmup_epochs: Warm-up of each block that begins to train after the start
        of the run, in epochs.
      steps: Function that converts epochs above 0 into steps.
    """
    groups = {HEAD: Group()}
    for depth, block in enumerate(reversed(BLOCK_NAMES), start=1):
        epoch = unfreeze_epochs[block]
        unfreeze_step = None
        if epoch != float("inf"):
            unfreeze_step = steps(epoch) if epoch else 0
        # The warm-up of the schedule covers blocks that train from the start.
        warmup = steps(warmup_epochs) if warmup_epochs and unfreeze_step else 0
        groups[block] = Group(unfreeze_step, layer_decay**depth, warmup)
    return groups


def create_phases(
    groups: Mapping[str, Group],
    *,
    sizes: Sequence[int],
    until: Sequence[int],
    final_size: int,
) -> tuple[Phase, ...]:
    """Returns the phases of a run, in order.

    Args:
      groups: Training schedules; see `create_groups`.
      sizes: Image sizes before the final one, in pixels, in order.
      until: Last step of each of these sizes, exclusive, ascending.
      final_size: Image size after the last of these steps, in pixels.
    """
    unfreeze_steps = {
        group.unfreeze_step
        for group in groups.values()
        if group.unfreeze_step is not None
    }
    phases = []
    for start in sorted({0, *unfreeze_steps, *until}):
        size = next(
            (s for s, end in zip(sizes, until, strict=True) if start < end),
            final_size,
        )
        trainable_blocks = frozenset(
            block
            for block, group in groups.items()
            if group.unfreeze_step is not None and group.unfreeze_step <= start
        )
        phases.append(Phase(start, size, trainable_blocks))
    return tuple(phases)


def log_costs(network: keras.Model, phases: Sequence[Phase]) -> None:
    """Logs the forward and training cost of an image in each phase."""
    for phase in phases:
        cost = flops.image_gflop(
            network, phase.input_size, phase.trainable_blocks
        )
        logging.info(
            "Planned from step %d: %d pixels, %.3f GFLOP per image forward,"
            " %.3f GFLOP per training image",
            phase.first_step,
            phase.input_size,
            cost.forward,
            cost.train,
        )


def train_tflop(
    network: keras.Model,
    phases: Sequence[Phase],
    *,
    train_steps: int,
    global_batch_size: int,
    num_features: int = 0,
    update_gflop: float = 0.0,
) -> float:
    """Returns the cost of the first steps of a run, in 10^12 operations.

    Args:
      network: Network of `vgg.vgg16`.
      phases: Phases of the run.
      train_steps: Number of steps.
      global_batch_size: Images per step, over all replicas.
      num_features: Number of images whose features train the head. If 0, the
        network is trained on images.
      update_gflop: Cost of the update of the weights in a step, over all
        replicas, in 10^9 operations. That of SGD and Adam is negligible.
    """
    if num_features:
        costs = flops.forward_gflop_by_block(network, phases[-1].input_size)
        extraction = num_features * sum(costs.values())
        head = train_steps * global_batch_size * (3 * costs[HEAD])
        return (extraction + head) / 1e3
    return train_steps * update_gflop / 1e3 + sum(
        steps
        * global_batch_size
        * flops.image_gflop(
            network, phase.input_size, phase.trainable_blocks
        ).train
        / 1e3
        for steps, phase in phase_steps(phases, train_steps)
    )
