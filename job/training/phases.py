"""What changes in the course of a run: which blocks train, at which size.

A run is cut into phases at the steps where that changes; each has a compiled
step of its own, so a frozen block costs no backward pass and a small image no
more than its size.

    groups = create_groups(unfreeze_epochs, ...)       # a block's own schedule
    phases = create_phases(groups, sizes=(64,), until=(500,), final_size=128)
    phases[0].open_blocks                             # {"head", "block5"}
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from job.model.spec import BLOCK_NAMES, HEAD


@dataclasses.dataclass(frozen=True)
class Group:
    """How the weights of one block, or of the head, are trained.

    Attributes:
      opens: the step at which it begins to train; None: it stays frozen.
      scale: times the schedule's rate.
      warmup_steps: of a straight climb from 0 after `opens`.
    """

    opens: int | None = 0
    scale: float = 1.0
    warmup_steps: int = 0

    def rate(self, rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns this group's learning rate.

        Args:
          rate: float32 [], the schedule's.
          step: int64 [], `opens` or later.
        """
        if self.scale != 1.0:
            rate *= self.scale
        if self.warmup_steps:
            since = tf.cast(step - (self.opens or 0) + 1, tf.float32)
            rate *= tf.minimum(1.0, since / self.warmup_steps)
        return rate


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run for which one compiled step suffices.

    Attributes:
      first_step: where it begins.
      input_size: side of the images that the network sees, in pixels.
      open_blocks: those that train; HEAD is always one of them.
    """

    first_step: int
    input_size: int
    open_blocks: frozenset[str]


def phase_steps(
    phases: Sequence[Phase], train_steps: int
) -> Iterator[tuple[int, Phase]]:
    """Yields the number of steps of each phase, and the phase.

    Args:
      phases: Phases of the run, in order.
      train_steps: Number of steps of the run. A later phase has 0.
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
    """Returns how each block and the head are trained.

    Args:
      unfreeze_epochs: when each block opens; infinity: never.
      layer_decay: a block's rate, times that of the next one towards the
        output.
      warmup_epochs: of each block that opens after the start.
      steps: converts epochs above 0 into steps.
    """
    groups = {HEAD: Group()}
    for depth, block in enumerate(reversed(BLOCK_NAMES), start=1):
        epoch = unfreeze_epochs[block]
        opens = None if epoch == float("inf") else steps(epoch) if epoch else 0
        # The schedule's own warm-up serves what is open from the start.
        warmup = steps(warmup_epochs) if warmup_epochs and opens else 0
        groups[block] = Group(opens, layer_decay**depth, warmup)
    return groups


def create_phases(
    groups: Mapping[str, Group],
    *,
    sizes: Sequence[int],
    until: Sequence[int],
    final_size: int,
) -> tuple[Phase, ...]:
    """Cuts a run where a block opens or the size changes.

    Args:
      groups: see `create_groups`.
      sizes: of the images before the final size, in turn.
      until: for each of them, the step at which it ends, ascending.
      final_size: from the last of these steps on.
    """
    opens = {g.opens for g in groups.values() if g.opens is not None}
    phases = []
    for start in sorted({0, *opens, *until}):
        size = next(
            (s for s, end in zip(sizes, until, strict=True) if start < end),
            final_size,
        )
        trained = frozenset(
            block
            for block, group in groups.items()
            if group.opens is not None and group.opens <= start
        )
        phases.append(Phase(start, size, trained))
    return tuple(phases)
