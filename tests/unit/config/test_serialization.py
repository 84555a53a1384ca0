"""Conversion of configs to and from JSON values."""

import json
import math

from configs import default
from job.config import serialization


def test_config_survives_json(config):
    config.model.head_units = (128, 64)
    config.transfer.unfreeze_epochs.block1 = math.inf
    text = json.dumps(serialization.to_json(config), allow_nan=False)
    loaded = serialization.from_json(json.loads(text))
    assert loaded.transfer.unfreeze_epochs.block1 == math.inf
    assert serialization.flatten(loaded) == serialization.flatten(config)


def test_flattened_values_are_json_values(config):
    config.model.head_units = (128, 64)
    config.transfer.unfreeze_epochs.block1 = math.inf
    fields = serialization.flatten(config)
    assert fields["model.head_units"] == [128, 64]
    assert fields["transfer.unfreeze_epochs.block1"] == "inf"


def test_field_that_a_saved_config_lacks_has_its_default(config):
    saved = serialization.to_json(config)
    del saved["optimizer"]["clip_norm"], saved["model"]["init"]
    loaded = serialization.from_json(saved)
    assert serialization.flatten(loaded) == serialization.flatten(config)


def test_changed_holds_the_seed_and_what_differs_from_the_default():
    config = default.get_config()
    config.optimizer.momentum = 0.8
    fields = serialization.flatten(config)
    assert serialization.changed(fields) == {
        "seed": config.seed,
        "optimizer.momentum": 0.8,
    }
