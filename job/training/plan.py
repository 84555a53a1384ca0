"""Plan of a run in steps, converted from epochs.

plan = create_plan(num_images=50_000, global_batch_size=512, ...)
plan.steps_to_boundary(done)       # steps until the next action
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from job.training import optimizer
from job.training import phases as phases_lib

# Minimum time between two checkpoints if no number of steps is set. An epoch
# may take half a second, and more frequent saves would slow training down.
_CHECKPOINT_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length, intervals, learning rate and phases of a run, in steps.

    Attributes:
      train_steps: Number of steps of the run.
      num_images: Number of images in the training split.
      global_batch_size: Images per step, over all replicas.
      log_every_steps: Steps between two lines of the metrics log.
      evaluate_every_steps: Steps between two evaluations. If 0, only at the
        end.
      checkpoint_every_steps: Steps between two checkpoints.
      checkpoint_seconds: Minimum time between two checkpoints, in seconds.
      steps_per_call: Steps per call of the compiled loop. If 0, as many as fit
        into its time.
      learning_rate: Learning rate as a function of the step.
      groups: Training schedule of each block and of the head.
      phases: Phases of the run, each with a compiled step of its own.
    """

    train_steps: int
    num_images: int
    global_batch_size: int
    log_every_steps: int
    evaluate_every_steps: int
    checkpoint_every_steps: int
    checkpoint_seconds: float
    steps_per_call: int
    learning_rate: optimizer.LearningRateFn
    groups: dict[str, phases_lib.Group]
    phases: tuple[phases_lib.Phase, ...]

    def epoch(self, done: int) -> float:
        """Returns the number of epochs in `done` steps."""
        # The report divides by it, to get the number of images.
        return round(done * self.global_batch_size / self.num_images, 8)

    def due(self, every: int, done: int) -> bool:
        """Returns whether an action with an interval is due.

        Args:
          every: Interval in steps. If 0, the action is due after the last step.
          done: Number of completed steps.
        """
        return done == self.train_steps or bool(every and done % every == 0)

    def steps_to_boundary(self, done: int) -> int:
        """Returns the number of steps until an action is due or a phase begins.

        Args:
          done: Number of completed steps.
        """
        intervals = (
            self.log_every_steps,
            self.evaluate_every_steps,
            self.checkpoint_every_steps,
        )
        remaining = [every - done % every for every in intervals if every]
        starts = [phase.first_step - done for phase in self.phases]
        remaining += [start for start in starts if start > 0]
        return min([*remaining, self.train_steps - done])

    def phase(self, done: int) -> phases_lib.Phase:
        """Returns the phase of the step after `done` steps."""
        return [p for p in self.phases if p.first_step <= done][-1]


def unreached_phases(plan: Plan) -> Iterator[str]:
    """Yields a warning for each phase that begins after the last step."""
    for phase in plan.phases:
        if phase.first_step >= plan.train_steps:
            yield (
                f"Omitting the phase from step {phase.first_step} on"
                f" ({phase.input_size} pixels, training"
                f" {', '.join(sorted(phase.trainable_blocks))}), because the"
                f" run ends at step {plan.train_steps}"
            )


def create_plan(
    *,
    num_images: int,
    global_batch_size: int,
    epochs: float,
    steps: int,
    peak_learning_rate: float,
    schedule: str,
    warmup_epochs: float,
    unfreeze_epochs: Mapping[str, float],
    layer_decay: float,
    unfreeze_warmup_epochs: float,
    input_size: int,
    progressive_sizes: Sequence[int],
    progressive_epochs: Sequence[float],
    log_every_steps: int,
    evaluate_every_epochs: float,
    checkpoint_every_steps: int,
    steps_per_call: int,
) -> Plan:
    """Returns the plan of a run, with each interval at least 1 step long.

    Args:
      num_images: Number of images in the training split.
      global_batch_size: Images per step, over all replicas.
      epochs: Length of the run in epochs.
      steps: Length of the run in steps. If 0, `epochs` decides.
      peak_learning_rate: Learning rate at the end of the warm-up.
      schedule: Decay of the learning rate: cosine, linear or constant.
      warmup_epochs: Linear warm-up in epochs.
      unfreeze_epochs: Epoch at which each block begins to train. If infinity,
        the block stays frozen.
      layer_decay: Ratio of a block's learning rate to that of the next block
        towards the output.
      unfreeze_warmup_epochs: Warm-up of each block that begins to train after
        the start of the run, in epochs.
      input_size: Image size at the end of the run, in pixels.
      progressive_sizes: Earlier image sizes in pixels, in order.
      progressive_epochs: Last epoch of each of these sizes, ascending.
      log_every_steps: Steps between two lines of the metrics log.
      evaluate_every_epochs: Epochs between two evaluations. If 0, only at the
        end.
      checkpoint_every_steps: Steps between two checkpoints. If 0, one epoch,
        but at least 30 seconds.
      steps_per_call: Steps per call of the compiled loop. If 0, as many as fit
        into its time.
    """

    def to_steps(epochs: float) -> int:
        return max(1, round(epochs * num_images / global_batch_size))

    train_steps = steps or to_steps(epochs)
    groups = phases_lib.create_groups(
        unfreeze_epochs,
        layer_decay=layer_decay,
        warmup_epochs=unfreeze_warmup_epochs,
        steps=to_steps,
    )
    return Plan(
        train_steps=train_steps,
        num_images=num_images,
        global_batch_size=global_batch_size,
        log_every_steps=log_every_steps,
        evaluate_every_steps=(
            to_steps(evaluate_every_epochs) if evaluate_every_epochs else 0
        ),
        checkpoint_every_steps=checkpoint_every_steps or to_steps(1.0),
        checkpoint_seconds=0.0
        if checkpoint_every_steps
        else _CHECKPOINT_SECONDS,
        steps_per_call=steps_per_call,
        learning_rate=optimizer.create_learning_rate_fn(
            peak=peak_learning_rate,
            schedule=schedule,
            train_steps=train_steps,
            warmup_steps=to_steps(warmup_epochs) if warmup_epochs else 0,
        ),
        groups=groups,
        phases=phases_lib.create_phases(
            groups,
            sizes=progressive_sizes,
            until=[to_steps(epoch) for epoch in progressive_epochs],
            final_size=input_size,
        ),
    )
