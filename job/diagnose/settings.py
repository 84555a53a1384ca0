"""Settings of a run, for the checks of its config.

run = Settings(serialization.flatten(config), train_steps=1560, ...)
run["optimizer.name"], run.epochs, run.is_frozen    # "sgd", 8.0, False
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from job.config.ranges import BLOCKS
from job.config.serialization import INFINITE

# Number of training images of CIFAR-10.
FULL_EPOCH = 50_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of a config, with properties of its data and devices.

    Attributes:
      fields: Flattened config; see `serialization.flatten`.
      train_steps: Number of steps of the run.
      num_images: Number of images in the training split.
      num_classes: Number of classes.
      replicas: Number of replicas that share a batch.
      is_synthetic: Whether the images are synthetic.
      preprocessing: Preprocessing of the network; see `build.preprocessing`.
      learns: Whether a probe learned one batch at some learning rate. If None,
        no probe was run.
    """

    fields: Mapping[str, Any]
    train_steps: int
    num_images: int
    num_classes: int
    replicas: int
    is_synthetic: bool
    preprocessing: str
    learns: bool | None

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def epochs(self) -> float:
        """Returns the length of the run in epochs of the training split."""
        images = self.train_steps * self["global_batch_size"]
        return round(images / self.num_images, 2)

    @property
    def full_epochs(self) -> float:
        """Returns the length of the run in epochs of 50,000 images."""
        return self.full_epochs_of(self.train_steps)

    def full_epochs_of(self, steps: int) -> float:
        """Returns the length of some steps in epochs of 50,000 images."""
        return steps * self["global_batch_size"] / FULL_EPOCH

    @property
    def is_pretrained(self) -> bool:
        """Returns whether the network starts from pretrained weights."""
        return bool(self["model.weights"])

    @property
    def is_frozen(self) -> bool:
        """Returns whether only the head is trained."""
        return all(
            self[f"transfer.unfreeze_epochs.{block}"] in (INFINITE, math.inf)
            for block in BLOCKS
        )

    @property
    def augment(self) -> dict[str, Any]:
        """Returns the fields of `config.augment`."""
        return {
            name.removeprefix("augment."): value
            for name, value in self.fields.items()
            if name.startswith("augment.")
        }
