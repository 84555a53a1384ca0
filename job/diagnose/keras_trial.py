"""Copies of a Keras model that train for some steps.

    trial = Trial(model, recipe, train, test, Reading("unit"))
    trial.accuracy(0.001)       # after 40 more steps
    trial.gain(0.001)           # of a new copy

The model itself and the random state of the process are not changed.
"""

import dataclasses
import math
import random
import sys

import keras
import numpy as np
import numpy.typing as npt

from job.data.dataset import Split
from job.diagnose import keras_recipe, layers, scoring
from job.diagnose.keras_recipe import Recipe
from job.diagnose.pixels import Reading

_BATCH = 32
# Number of steps of a copy with the model's weights, and with new weights.
CONTINUED_STEPS, NEW_STEPS = 40, 100
# Number of the last steps, whose loss is compared with that of guessing.
_LAST_STEPS = 10
# Number of multiplications per image above which training takes too long.
_AFFORDABLE = 5e7
# Gain that shows learning, in nats. Without learning the expected gain is 0 at
# most, and one gain differs from it by about 0.01.
LEARNED = 0.03


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trainer of copies of a model at several learning rates.

    Attributes:
      model: Image classifier.
      recipe: Compiled recipe of the model.
      train: Training images, 0 to 255, and their labels. If None, no trial is
        possible.
      test: Images for the accuracy, and their labels.
      reading: Reading of these images for the model.
    """

    model: keras.Model
    recipe: Recipe
    train: Split | None = None
    test: Split | None = None
    reading: Reading = dataclasses.field(default_factory=Reading)
    _gains: dict[tuple[float, Reading, int], float] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def is_possible(self) -> bool:
        """Returns whether the model is compiled, small and copyable."""
        return (
            self.train is not None
            and bool(self.recipe.loss)
            and self.recipe.rate is not None
            and (self._units == 1 or self.train.labels.max() < self._units)
            and layers.multiply_adds(self.model) <= _AFFORDABLE
        )

    @property
    def _units(self) -> int:
        return int(self.model.outputs[0].shape[-1])

    def accuracy(self, rate: float) -> float:
        """Returns the accuracy in % after some more steps.

        Args:
          rate: Learning rate of the steps.
        """
        assert self.train is not None
        assert self.test is not None
        count = CONTINUED_STEPS * _BATCH
        split = self.train.take(np.resize(np.arange(len(self.train)), count))
        copy = self._copy(rate, seed=0)
        copy.set_weights(self.model.get_weights())
        self._fit(copy, split, self.reading)
        outputs = scoring.answers(copy, self.test.images, self.reading)
        return scoring.top_1(outputs, self.test.labels)

    def gain(
        self, rate: float, reading: Reading | None = None, *, seed: int = 0
    ) -> float:
        """Returns how far a new copy's loss falls below that of guessing.

        Guessing is the best answer that is the same for all images. The images
        of the last steps are new to the copy, which could otherwise memorize
        them. A high loss in the first steps has no effect.

        Args:
          rate: Learning rate of the steps.
          reading: Reading of the images. If None, that of the trial.
          seed: Seed of the initial weights and of dropout.

        Returns:
          Loss of guessing minus the mean loss of the last steps, in nats, or
          minus infinity if it is not finite.
        """
        assert self.train is not None
        reading = reading or self.reading
        key = (rate, reading, seed)
        if key not in self._gains:
            count, batches = len(self.train), len(self.train) // (3 * _BATCH)
            new = _BATCH * max(1, min(_LAST_STEPS, batches))
            known = np.arange(max(1, count - new))
            split = self.train.take(
                np.concatenate(
                    [
                        np.resize(known, NEW_STEPS * _BATCH - new),
                        np.resize(np.arange(count)[-new:], new),
                    ]
                )
            )
            copy = self._copy(rate, seed=seed)
            losses = self._fit(copy, split, reading)[-(new // _BATCH) :]
            penalty = float(sum(float(each) for each in copy.losses))
            guess = self._guess(split.labels[-new:])
            gain = guess - (float(np.mean(losses)) - penalty)
            self._gains[key] = gain if math.isfinite(gain) else -math.inf
        return self._gains[key]

    def best_gain(self, rate: float) -> float:
        """Returns the highest gain of two seeds; see `gain`.

        The second seed is tried only if the first copy does not learn.

        Args:
          rate: Learning rate of the steps.
        """
        first = self.gain(rate)
        if first >= LEARNED:
            return first
        return max(first, self.gain(rate, seed=1))

    def worst_gain(self, rate: float) -> float:
        """Returns the lowest gain of two seeds; see `gain`.

        The second seed is tried only if the first copy learns.

        Args:
          rate: Learning rate of the steps.
        """
        first = self.gain(rate)
        if first < LEARNED:
            return first
        return min(first, self.gain(rate, seed=1))

    def _targets(self, labels: npt.NDArray) -> npt.NDArray:
        return scoring.targets(
            labels, units=self._units, one_hot=self.recipe.is_one_hot
        )

    def _guess(self, labels: npt.NDArray) -> float:
        """Returns the loss of the best answer that is the same for all images.

        Args:
          labels: Labels of the images, int [n].
        """
        assert self.train is not None
        one_hot = scoring.targets(
            self.train.labels, units=self._units, one_hot=True
        )
        answer = one_hot.mean(axis=0)
        if self.recipe.from_logits:
            answer = np.log(answer + 1e-7)
        loss = self.model.loss
        loss = keras.losses.get(loss[0] if isinstance(loss, list) else loss)
        answers = np.broadcast_to(answer, (_BATCH, len(answer)))
        return float(
            np.mean(
                [
                    np.mean(loss(self._targets(batch), answers))
                    for batch in labels.reshape(-1, _BATCH)
                ]
            )
        )

    def _copy(self, rate: float, *, seed: int) -> keras.Model:
        """Returns a compiled copy of the model with new weights."""
        state = random.getstate()
        # Keras draws the seeds of new layers from this generator.
        random.seed(seed)
        try:
            copy = keras.models.clone_model(self.model)
        finally:
            random.setstate(state)
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        config = keras_recipe.optimizer_config(optimizer)
        config["learning_rate"] = rate
        copy.compile(type(optimizer).from_config(config), self.model.loss)
        return copy

    def _fit(
        self, copy: keras.Model, split: Split, reading: Reading
    ) -> list[float]:
        """Trains a copy for one step per batch and returns the losses."""
        rate = float(copy.optimizer.learning_rate)
        steps = len(split) // _BATCH
        print(
            f"Training a copy for {steps} steps at learning rate {rate:.2g}.",
            file=sys.stderr,
        )
        images = scoring.prepare(copy, split.images, reading)
        targets = self._targets(split.labels)
        losses = []
        for first in range(0, len(images), _BATCH):
            batch = slice(first, first + _BATCH)
            loss = copy.train_on_batch(images[batch], targets[batch])
            losses.append(float(np.ravel(loss)[0]))
        return losses
