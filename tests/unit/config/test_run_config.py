"""The config that a workdir holds."""

import json

import pytest

from job import errors
from job.config import run_config, serialization
from job.storage.workdir import CONFIG


def test_saved_config_is_loaded(config, tmp_path):
    config.optimizer.momentum = 0.8
    text = json.dumps(serialization.to_json(config))
    (tmp_path / CONFIG).write_text(text)
    loaded = run_config.load(tmp_path)
    assert serialization.flatten(loaded) == serialization.flatten(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--workdir=gs://b/run: no config.json found"),
        ("{", "--workdir=gs://b/run: config.json is not valid JSON"),
        ("[" * 100_000, "config.json is nested too deeply"),
        ("[]", r"config.json: it is \[\]; it must be an object"),
        ('{"optimizer": 3}', "config.json: optimizer is 3; it must be an obj"),
        ('{"seed": 1.5}', "config.json: seed is 1.5; it must be an integer"),
        (
            '{"optimizer.name": 1}',
            "config.json: 'optimizer.name' is not a field",
        ),
        ('{"__class__": 1}', "config.json: '__class__' is not a field"),
        ('{"epochs": -1.0}', "epochs=-1.0: must"),
    ],
)
def test_absent_and_damaged_configs_are_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / CONFIG).write_text(content)
    with pytest.raises(errors.ConfigError, match=message):
        run_config.load(tmp_path, "gs://b/run")
