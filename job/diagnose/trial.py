"""Training of a run's network for a few steps, with a reset.

    trial = Trial(config, plan, batch, precision="float32", ...)
    trial.step(0.1)                     # loss before the step
    trial.reset()

The step is that of the job (`job.training.step`), on one device, without
augmentation, dropout or label smoothing, any of which makes learning harder.
"""

import dataclasses

import keras
import ml_collections
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job import build
from job.data import pipeline
from job.data.dataset import Split
from job.data.pipeline import TrainBatch
from job.training import phases, step
from job.training.plan import Plan
from job.training.state import TrainState

_Array = npt.NDArray


class Trial:
    """Trainer of a run's network on one batch.

    Attributes:
      config: Config of the run.
      batch: Images of every step.
      num_classes: Number of classes.
      rate: Learning rate of the run, for the size of the batch.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        plan: Plan,
        batch: Split,
        *,
        precision: str,
        first_weights: dict[str, _Array],
        num_classes: int,
    ) -> None:
        """Builds the network, which the first step compiles.

        Args:
          config: Config of the run.
          plan: Plan of the run, with its trainable blocks and learning rates.
          batch: Images of every step.
          precision: Precision of the trial: float32, bfloat16 or float16.
          first_weights: Initial weights that are not random; see
            `build.first_weights`.
          num_classes: Number of classes.
        """
        self.config = config
        self.batch = batch
        self.num_classes = num_classes
        self.rate = config.optimizer.peak_learning_rate
        if config.optimizer.name == "sgd":
            # The linear rule gives the learning rate for the smaller batch.
            self.rate *= len(batch) / config.global_batch_size
        gpus = tf.config.list_physical_devices("GPU")
        self._strategy = tf.distribute.MirroredStrategy(
            ["GPU:0" if gpus else "CPU:0"]
        )
        with self._strategy.scope():
            self._state = TrainState(
                build.create_model(config, precision, num_classes=num_classes),
                averaging=False,
                loss_scaling=precision == "float16",
                adam=config.optimizer.name == "adam",
            )
        self._state.load_weights(first_weights)
        self._start = self._state.snapshot()
        zeros = np.zeros_like(batch.labels)
        batches = tf.data.Dataset.from_tensors(
            TrainBatch(batch.images, batch.labels, zeros, zeros)
        )
        batches = pipeline.untuned(batches.repeat())
        self._batches = pipeline.distribute(self._strategy, lambda own: batches)
        self._resize = build.create_resize(config)
        trainable_blocks = {
            block
            for block, group in plan.groups.items()
            if group.unfreeze_step is not None
        }
        self._steps = step.make_train_steps(
            self._strategy,
            self._state,
            build.keep_images,
            dataclasses.replace(
                build.optimizer_settings(config, plan),
                # A trial sets learning_rate_factor to its learning rate, so
                # that one compiled step suffices for all of them.
                learning_rate=lambda _: tf.constant(1.0),
                groups={
                    name: phases.Group(0, group.learning_rate_scale)
                    for name, group in plan.groups.items()
                },
                label_smoothing=0.0,
                ema_decay=0.0,
            ),
            network=self._state.model,
            resize=self._resize,
            trainable_blocks=trainable_blocks,
            seed=config.seed,
            global_batch_size=len(batch),
            # XLA is used as in the run, because a probe compares two trials.
            jit_compile=build.uses_jit(config, self._strategy),
        )

    @property
    def model(self) -> keras.Model:
        """Returns the network with its current weights."""
        return self._state.model

    def step(self, rate: float) -> float:
        """Runs one training step.

        Args:
          rate: Learning rate of the step.

        Returns:
          Loss before the update, or NaN if it is not finite.
        """
        window = self._state.window["loss"]
        window.assign(0.0)
        self._state.learning_rate_factor.assign(rate)
        self._steps(self._batches, tf.constant(1))
        if int(self._state.first_bad_step.numpy()) >= 0:
            return float("nan")
        return float(window.numpy())

    def logits(self, images: _Array, *, training: bool) -> tf.Tensor:
        """Calls the network without compiling it.

        Args:
          images: Images, uint8 [b, 32, 32, 3].
          training: Whether batch normalization uses the batch statistics.

        Returns:
          Logits, [b, k].
        """
        resized = self._resize(tf.constant(images))
        return self._state.model(resized, training=training)[0]

    def reset(self) -> None:
        """Restores the state from before the first step."""
        self._state.restore(self._start)
