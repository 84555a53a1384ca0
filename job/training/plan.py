"""When what is due, in steps: epochs are converted once, and here only.

plan = Plan.create(config, num_images=50_000)
plan.steps_to_boundary(done)       # until something is due
"""

import dataclasses

import ml_collections

from job.training import optimizer
from job.training import phases as phases_lib

# Between two checkpoints whose cadence is left to us: an epoch may take half a
# second, and what is saved so often is not worth its time.
_SAVE_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config's cadences, in steps.

    Attributes:
      train_steps: of the whole run.
      num_images: images in the training split.
      global_batch_size: images a step.
      log_every_steps: between two lines of the record.
      evaluate_every_steps: between two evaluations; 0: at the end only.
      checkpoint_every_steps: between two checkpoints.
      checkpoint_seconds: between two checkpoints, at least.
      steps_per_call: of the compiled loop; 0: as many as fit its time.
      learning_rate: as a function of the step.
      groups: how each block's rate differs from it.
      phases: of the run, each with a compiled step of its own.
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

    @classmethod
    def create(
        cls, config: ml_collections.ConfigDict, *, num_images: int
    ) -> "Plan":
        """Converts epochs into steps, once and here only."""

        def steps(epochs: float) -> int:
            return max(1, round(epochs * num_images / config.global_batch_size))

        train_steps = config.steps or steps(config.epochs)
        warmup = config.optimizer.warmup_epochs
        every_epochs = config.evaluate.every_epochs
        groups = phases_lib.create_groups(
            config.transfer.unfreeze_epochs,
            layer_decay=config.transfer.layer_decay,
            warmup_epochs=config.transfer.warmup_epochs,
            steps=steps,
        )
        return cls(
            train_steps=train_steps,
            num_images=num_images,
            global_batch_size=config.global_batch_size,
            log_every_steps=config.log_every_steps,
            evaluate_every_steps=steps(every_epochs) if every_epochs else 0,
            checkpoint_every_steps=config.checkpoint.every_steps or steps(1.0),
            checkpoint_seconds=(
                0.0 if config.checkpoint.every_steps else _SAVE_SECONDS
            ),
            steps_per_call=config.steps_per_loop,
            learning_rate=optimizer.create_learning_rate_fn(
                peak=config.optimizer.peak_learning_rate,
                schedule=config.optimizer.schedule,
                train_steps=train_steps,
                warmup_steps=steps(warmup) if warmup else 0,
            ),
            groups=groups,
            phases=phases_lib.create_phases(
                groups,
                sizes=config.model.progressive_sizes,
                until=[steps(e) for e in config.model.progressive_epochs],
                final_size=config.model.input_size,
            ),
        )

    def epoch(self, done: int) -> float:
        """Returns how many epochs `done` steps are."""
        return round(done * self.global_batch_size / self.num_images, 4)

    def due(self, every: int, done: int) -> bool:
        """Says whether something that comes round every so often is due."""
        return done == self.train_steps or bool(every and done % every == 0)

    def steps_to_boundary(self, done: int) -> int:
        """Returns how many steps there are until something is due."""
        cadences = (
            self.log_every_steps,
            self.evaluate_every_steps,
            self.checkpoint_every_steps,
        )
        ahead = [every - done % every for every in cadences if every]
        starts = [phase.first_step - done for phase in self.phases]
        ahead += [start for start in starts if start > 0]
        return min([*ahead, self.train_steps - done])

    def phase(self, done: int) -> phases_lib.Phase:
        """Returns the phase to which the step after `done` steps belongs."""
        return [p for p in self.phases if p.first_step <= done][-1]
