"""Config of an existing run, read from its workdir."""

import json

import pytest

from configs import smoke
from job import errors
from job.config import run_config, serialization
from job.storage import workdir
from job.storage.workdir import CONFIG


def test_saved_config_is_loaded(config, tmp_path):
    config.optimizer.momentum = 0.8
    text = json.dumps(serialization.to_json(config))
    (tmp_path / CONFIG).write_text(text)
    loaded = run_config.load(workdir.Workdir(tmp_path))
    assert serialization.flatten(loaded) == serialization.flatten(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--workdir=gs://b/run: no config.json found"),
        ("{", "--workdir=gs://b/run: config.json is not valid JSON"),
        ("[" * 100_000, "config.json is nested too deeply"),
        ("[]", r"config.json: the value is \[\], not an object"),
        ('{"optimizer": 3}', "config.json: optimizer is 3, not an obj"),
        ('{"seed": 1.5}', "config.json: seed is 1.5, not an integer"),
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
        run_config.load(workdir.Workdir(tmp_path, "gs://b/run"))


def claim(folder, *, seed=0, has_saved=False):
    config = smoke.get_config().unlock()
    config.seed = seed
    opened = workdir.Workdir(folder)
    return run_config.as_owner(opened, config, lambda: has_saved)


def test_the_owner_of_a_workdir_excludes_all_others(tmp_path):
    folder = tmp_path / "run"
    with claim(folder):
        assert run_config.load(workdir.Workdir(folder)).seed == 0
        with pytest.raises(errors.LostRaceError), claim(folder):
            pass
        with (
            pytest.raises(errors.ResumeError, match="seed: 0 -> 1"),
            claim(folder, seed=1),
        ):
            pass
    assert run_config.load(workdir.Workdir(folder)).seed == 0
    with claim(folder):
        pass
    with pytest.raises(errors.ResumeError), claim(folder, seed=1):
        pass


@pytest.mark.parametrize("has_saved", [False, True])
def test_a_config_is_withdrawn_by_an_error_before_the_first_save(
    tmp_path, has_saved
):
    folder = tmp_path / "run"
    with pytest.raises(errors.DataError), claim(folder, has_saved=has_saved):
        raise errors.DataError("no images")
    assert folder.exists() is has_saved
    # An older config.json is not this attempt's to remove.
    with claim(folder):
        pass
    with pytest.raises(errors.DataError), claim(folder):
        raise errors.DataError("no images")
    assert run_config.load(workdir.Workdir(folder)).seed == 0
