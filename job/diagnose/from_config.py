"""Checks of the fields of a config.

    check_fields(serialization.flatten(config), train_steps=1_000, ...)

The checks need neither TensorFlow nor data.
"""

import math
from collections.abc import Mapping
from typing import Any

from job.config.ranges import BLOCKS
from job.config.serialization import INFINITE
from job.diagnose import architecture, recipe
from job.diagnose.finding import Finding

# Number of training images of CIFAR-10.
FULL_EPOCH = 50_000


def check_fields(
    fields: Mapping[str, Any],
    *,
    train_steps: int,
    num_images: int,
    replicas: int,
    synthetic: bool,
    learns: bool | None,
    num_classes: int,
    preprocessing: str,
) -> dict[str, Finding | None]:
    """Runs all checks of a config.

    Args:
      fields: Flattened config; see `serialization.flatten`.
      train_steps: Number of steps of the run.
      num_images: Number of images in the training split.
      replicas: Number of replicas that share a batch.
      synthetic: Whether the images are synthetic.
      learns: Whether a probe learned one batch; see
        `architecture.check_batch_norm`.
      num_classes: Number of classes.
      preprocessing: Preprocessing of the network; see `build.preprocessing`.

    Returns:
      Finding or None of each check, by its name.
    """
    batch_size = fields["global_batch_size"]
    epochs = round(train_steps * batch_size / num_images, 2)
    frozen = len(frozen_blocks(fields)) == len(BLOCKS)
    augment = {
        name.removeprefix("augment."): value
        for name, value in fields.items()
        if name.startswith("augment.")
    }
    pretrained = bool(fields["model.weights"])
    optimizer = fields["optimizer.name"]
    network = _check_network(
        fields,
        train_steps=train_steps,
        replicas=replicas,
        learns=learns,
        num_classes=num_classes,
        preprocessing=preprocessing,
        frozen=frozen,
    )
    return network | {
        "over_augmentation": recipe.check_over_augmentation(
            augment=augment, epochs=epochs
        ),
        "short_run": recipe.check_budget(
            epochs=train_steps * batch_size / FULL_EPOCH,
            steps=train_steps,
            width=fields["model.width"],
            train_images=fields["data.train_images"],
            frozen=frozen,
            synthetic=synthetic,
        ),
        "constant_rate": recipe.check_constant_rate(
            schedule=fields["optimizer.schedule"],
            warmup_epochs=fields["optimizer.warmup_epochs"],
            epochs=epochs,
            frozen=frozen,
        ),
        "no_warmup": recipe.check_warmup(
            optimizer=optimizer,
            warmup_epochs=fields["optimizer.warmup_epochs"],
            epochs=epochs,
            frozen=frozen,
        ),
        "learning_rate": recipe.check_rate_rule(
            optimizer=optimizer,
            peak_learning_rate=fields["optimizer.peak_learning_rate"],
            global_batch_size=batch_size,
            batch_norm=fields["model.batch_norm"],
            pretrained=pretrained,
            frozen=frozen,
        ),
        "no_augmentation": recipe.check_augmentation(
            augment=augment, synthetic=synthetic, frozen=frozen
        ),
        "weight_decay": recipe.check_weight_decay(
            optimizer=optimizer,
            peak_learning_rate=fields["optimizer.peak_learning_rate"],
            weight_decay=fields["optimizer.weight_decay"],
            momentum=fields["optimizer.momentum"],
        ),
    }


def _check_network(
    fields: Mapping[str, Any],
    *,
    train_steps: int,
    replicas: int,
    learns: bool | None,
    num_classes: int,
    preprocessing: str,
    frozen: bool,
) -> dict[str, Finding | None]:
    batch_size = fields["global_batch_size"]
    pretrained = bool(fields["model.weights"])
    optimizer = fields["optimizer.name"]
    return {
        "no_batch_norm": architecture.check_batch_norm(
            batch_norm=fields["model.batch_norm"],
            pretrained=pretrained,
            learns=learns,
            rate=recipe.rule_of_thumb(
                optimizer=optimizer, global_batch_size=batch_size
            ),
        ),
        "frozen_base": architecture.check_frozen_base(
            input_size=fields["model.input_size"], frozen=frozen
        ),
        "preprocessing": architecture.check_preprocessing(
            preprocessing=preprocessing, pretrained=pretrained
        ),
        "large_head": architecture.check_large_head(
            head_units=fields["model.head_units"],
            input_size=fields["model.input_size"],
            width=fields["model.width"],
            flatten=fields["model.head_pooling"] == "flatten",
            num_classes=num_classes,
        ),
        "replica_batch": architecture.check_replica_batch(
            batch_norm=fields["model.batch_norm"],
            synchronized=fields["distribute.sync_batch_norm"],
            global_batch_size=batch_size,
            replicas=replicas,
        ),
        "batch_norm_momentum": architecture.check_batch_norm_momentum(
            batch_norm=fields["model.batch_norm"],
            momentum=fields["model.batch_norm_momentum"],
            steps=train_steps,
        ),
    }


def frozen_blocks(fields: Mapping[str, Any]) -> list[str]:
    """Returns the names of the blocks that stay frozen.

    Args:
      fields: Flattened config.
    """
    return [
        block
        for block in BLOCKS
        if fields[f"transfer.unfreeze_epochs.{block}"] in (INFINITE, math.inf)
    ]
