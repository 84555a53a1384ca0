"""Copies of a Keras model that train for some steps.

    trial = Trial(model, recipe, train, test, Reading("unit"))
    trial.accuracy(0.001, test_images, test_labels)     # after 40 more steps
    trial.loss(0.001)                                   # of a new copy

The model itself is not changed.
"""

import dataclasses

import keras
import numpy as np

from job.data.dataset import Split
from job.diagnose import layers, scoring
from job.diagnose.keras_recipe import Recipe
from job.diagnose.pixels import Reading

_BATCH = 32
# Number of steps of a copy with the model's weights, and with new weights.
CONTINUED_STEPS, NEW_STEPS = 40, 100
# Number of multiplications per image above which training takes too long.
_AFFORDABLE = 5e7
# Decrease of the loss that shows learning, in nats.
LEARNED = 0.1


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

    @property
    def is_possible(self) -> bool:
        """Returns whether the model is compiled, small and copyable."""
        return (
            self.train is not None
            and bool(self.recipe.loss)
            and self.recipe.rate is not None
            and layers.multiply_adds(self.model) <= _AFFORDABLE
        )

    def accuracy(self, rate: float) -> float:
        """Returns the accuracy in % after some more steps.

        Args:
          rate: Learning rate of the steps.
        """
        assert self.test is not None
        steps = CONTINUED_STEPS
        copy = self._fit(rate, steps, self.reading, new=False)[0]
        outputs = scoring.answers(copy, self.test.images, self.reading)
        return scoring.top_1(outputs, self.test.labels)

    def loss(self, rate: float, reading: Reading | None = None) -> float:
        """Returns the decrease of the loss of a new copy, in nats.

        Args:
          rate: Learning rate of the steps.
          reading: Reading of the images. If None, that of the trial.

        Returns:
          Loss of the first tenth of the steps minus that of the last tenth, or
          NaN if it is not finite.
        """
        reading = reading or self.reading
        losses = self._fit(rate, NEW_STEPS, reading, new=True)[1]
        tenth = NEW_STEPS // 10
        return float(np.mean(losses[:tenth]) - np.mean(losses[-tenth:]))

    def _fit(
        self, rate: float, steps: int, reading: Reading, *, new: bool
    ) -> tuple[keras.Model, list[float]]:
        copy = keras.models.clone_model(self.model)
        if not new:
            copy.set_weights(self.model.get_weights())
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        config = optimizer.get_config() | {"learning_rate": rate}
        copy.compile(type(optimizer).from_config(config), self.model.loss)
        assert self.train is not None
        rows = np.resize(np.arange(len(self.train)), steps * _BATCH)
        split = self.train.take(rows)
        images = scoring.prepare(copy, split.images, reading)
        targets = scoring.targets(
            split.labels,
            units=int(self.model.outputs[0].shape[-1]),
            one_hot=self.recipe.is_one_hot,
        )
        losses = []
        for first in range(0, len(images), _BATCH):
            batch = slice(first, first + _BATCH)
            loss = copy.train_on_batch(images[batch], targets[batch])
            losses.append(float(np.ravel(loss)[0]))
        return copy, losses
