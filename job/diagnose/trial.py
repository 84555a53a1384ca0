"""A run's network, for a few steps that leave nothing behind.

    trial = Trial(config, plan, precision="float32", batch_size=32, ...)
    trial.feed(images, labels)          # [steps, b, 32, 32, 3], [steps, b]
    trial.step(0.1)                     # the first batch's loss
    trial.reset()

The step is the job's own (`training.step`), on one device, on images as they
are, without dropout or label smoothing: what cannot be learnt so cannot be
learnt.
"""

from collections.abc import Iterator

import keras
import ml_collections
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job import train
from job.data import pipeline
from job.data.pipeline import TrainBatch
from job.training import phases, step, update
from job.training.plan import Plan
from job.training.state import TrainState

_Array = npt.NDArray


class Trial:
    """Trains a run's network on batches that it is given."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        plan: Plan,
        *,
        precision: str,
        batch_size: int,
        num_classes: int,
        first_weights: dict[str, _Array],
    ) -> None:
        """Builds the network; nothing is compiled yet.

        Args:
          config: of the run.
          plan: of the run: which blocks ever train, at which share of the rate.
          precision: of the arithmetic.
          batch_size: images a step.
          num_classes: Number of classes.
          first_weights: see `train.first_weights`; the others are drawn.
        """
        gpus = tf.config.list_physical_devices("GPU")
        self._strategy = tf.distribute.MirroredStrategy(
            ["GPU:0" if gpus else "CPU:0"]
        )
        with self._strategy.scope():
            self._state = TrainState(
                train.create_model(config, precision, num_classes=num_classes),
                averaging=False,
                loss_scaling=precision == "float16",
                adam=config.optimizer.name == "adam",
            )
        self._state.load_weights(first_weights)
        self._start = self._state.snapshot()
        self._batches: Iterator[TrainBatch] | None = None
        self._resize = train.create_resize(config)
        trainable_blocks = {
            block
            for block, group in plan.groups.items()
            if group.unfreeze_step is not None
        }
        self._steps = step.make_train_steps(
            self._strategy,
            self._state,
            train.take_images,
            update.OptimizerSettings(
                name=config.optimizer.name,
                # The factor, which a rollback would change, is the rate here:
                # so one compiled step does for all rates.
                learning_rate=lambda _: tf.constant(1.0),
                groups={
                    name: phases.Group(0, group.learning_rate_scale)
                    for name, group in plan.groups.items()
                },
                momentum=config.optimizer.momentum,
                weight_decay=config.optimizer.weight_decay,
                label_smoothing=0.0,
                ema_decay=0.0,
                clip_norm=config.optimizer.clip_norm,
            ),
            network=self._state.model,
            resize=self._resize,
            trainable_blocks=trainable_blocks,
            seed=config.seed,
            global_batch_size=batch_size,
            # As the run has it: a probe of the speed compares two of these.
            jit_compile=train.use_jit(config, self._strategy),
        )

    @property
    def model(self) -> keras.Model:
        """The network, as far as it has been trained."""
        return self._state.model

    def feed(self, images: _Array, labels: _Array) -> None:
        """Sets what the next steps are made on.

        Args:
          images: uint8 [steps, b, 32, 32, 3].
          labels: int32 [steps, b].
        """
        zeros = np.zeros_like(labels)
        batches = tf.data.Dataset.from_tensor_slices(
            TrainBatch(images, labels, zeros, zeros)
        )
        batches = pipeline.untuned(batches.repeat())
        self._batches = pipeline.distribute(self._strategy, lambda own: batches)

    def step(self, rate: float) -> float:
        """Makes a step; returns the loss before it, NaN if not finite."""
        assert self._batches is not None
        window = self._state.window["loss"]
        window.assign(0.0)
        self._state.learning_rate_factor.assign(rate)
        self._steps(self._batches, tf.constant(1))
        if int(self._state.first_bad_step.numpy()) >= 0:
            return float("nan")
        return float(window.numpy())

    def logits(self, images: _Array, *, training: bool) -> tf.Tensor:
        """Calls the network, eagerly; uint8 [b, 32, 32, 3] to [b, k]."""
        resized = self._resize(tf.constant(images))
        return self._state.model(resized, training=training)[0]

    def reset(self) -> None:
        """Puts everything back to how it was before the first step."""
        self._state.restore(self._start)
