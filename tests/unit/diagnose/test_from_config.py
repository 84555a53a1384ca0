"""Tests of the checks of config fields."""

import math

import pytest

from configs import (
    advice_frozen,
    augment_presets,
    default,
    naive,
    quickstart,
    smoke,
    stem32,
    transfer,
    upsample,
)
from job.diagnose import from_config
from tests.support.findings import assert_finding, make_settings

STRONG = {
    f"augment.{field}": value
    for field, value in augment_presets.fields("strong").items()
}
DEFAULT = default.get_config()
NAIVE = naive.get_config()
FROZEN = transfer.get_config("frozen")
SMALL_BATCH = {"global_batch_size": 64}


def check_fields(*args, **kwargs):
    """Returns the findings of a changed config, by their names."""
    return from_config.check_fields(make_settings(*args, **kwargs))


# Each case is a faulty config and a sound one: (config, changes).
@pytest.mark.parametrize(
    ("check", "faulty", "sound"),
    [
        pytest.param(
            "learning_rate",
            (DEFAULT, {"optimizer.peak_learning_rate": 0.01}),
            (DEFAULT, {}),
            id="learning_rate-low",
        ),
        pytest.param(
            "learning_rate",
            (DEFAULT, {"optimizer.peak_learning_rate": 4.0}),
            (DEFAULT, {"optimizer.peak_learning_rate": 1.0}),
            id="learning_rate-high",
        ),
        pytest.param(
            "learning_rate",
            (NAIVE, {}),
            (NAIVE, {"optimizer.peak_learning_rate": 3e-4}),
            id="learning_rate-no_batch_norm",
        ),
        pytest.param(
            "learning_rate",
            (transfer.get_config(), {"optimizer.peak_learning_rate": 5.0}),
            (transfer.get_config(), {}),
            id="learning_rate-pretrained",
        ),
        pytest.param(
            "no_warmup",
            (DEFAULT, {"epochs": 8.0, "optimizer.warmup_epochs": 0.0}),
            (DEFAULT, {}),
            id="no_warmup",
        ),
        pytest.param(
            "preprocessing",
            (FROZEN, {"model.preprocessing": "unit"}),
            (FROZEN, {}),
            id="preprocessing",
        ),
        pytest.param(
            "constant_rate",
            (NAIVE, {}),
            (DEFAULT, {}),
            id="constant_rate",
        ),
        pytest.param(
            "constant_rate",
            (DEFAULT, {"optimizer.warmup_epochs": 100.0}),
            (DEFAULT, {"optimizer.warmup_epochs": 1.0}),
            id="constant_rate-warmup_as_long_as_the_run",
        ),
        # ImageNet's weights were trained without batch normalization.
        pytest.param(
            "no_batch_norm",
            (NAIVE, {}),
            (transfer.get_config(), {}),
            id="no_batch_norm",
        ),
        pytest.param(
            "large_head",
            (NAIVE, {}),
            (advice_frozen.get_config(), {}),
            id="large_head",
        ),
        pytest.param(
            "frozen_base",
            (advice_frozen.get_config(), {}),
            (transfer.get_config("gradual"), {}),
            id="frozen_base",
        ),
        pytest.param(
            "frozen_base",
            (FROZEN, {"model.input_size": 64}),
            (transfer.get_config("at_once"), {}),
            id="frozen_base-input_size",
        ),
        pytest.param(
            "no_augmentation",
            (NAIVE, {}),
            (quickstart.get_config(), {}),
            id="no_augmentation",
        ),
        pytest.param(
            "over_augmentation",
            (DEFAULT, {"epochs": 5.0, **STRONG}),
            (stem32.get_config("200ep"), {}),
            id="over_augmentation",
        ),
        pytest.param(
            "short_run",
            (DEFAULT, {"steps": 20}),
            (DEFAULT, {"epochs": 2.0}),
            id="short_run",
        ),
        pytest.param(
            "batch_norm_momentum",
            (DEFAULT, {"epochs": 5.0, "model.batch_norm_momentum": 0.99}),
            (DEFAULT, {"model.batch_norm_momentum": 0.99}),
            id="batch_norm_momentum",
        ),
        pytest.param(
            "weight_decay",
            (DEFAULT, {"optimizer.weight_decay": 5e-3}),
            (stem32.get_config("10ep"), {}),
            id="weight_decay-keras_value_with_sgd",
        ),
        pytest.param(
            "weight_decay",
            (DEFAULT, {"optimizer.weight_decay": 5e-3}),
            (
                DEFAULT,
                {"optimizer.weight_decay": 5e-3, "optimizer.muon_ratio": 0.125},
            ),
            id="weight_decay-muon_has_none",
        ),
        pytest.param(
            "weight_decay",
            (NAIVE, {"optimizer.weight_decay": 5e-4}),
            (NAIVE, {"optimizer.weight_decay": 0.05}),
            id="weight_decay-sgd_value_with_adam",
        ),
    ],
)
def test_fault_is_found_and_sound_config_passes(check, faulty, sound):
    assert_finding(check_fields(*faulty)[check], check)
    assert check_fields(*sound)[check] is None


def test_replica_batch_is_found_and_synchronized_statistics_pass():
    found = check_fields(DEFAULT, SMALL_BATCH, replicas=8)["replica_batch"]
    assert_finding(found, "replica_batch")
    synchronized = {**SMALL_BATCH, "distribute.sync_batch_norm": True}
    assert not check_fields(DEFAULT, synchronized, replicas=8)["replica_batch"]


@pytest.mark.parametrize(
    "config",
    [
        *(
            pytest.param(stem32.get_config(variant), id=f"stem32:{variant}")
            for variant in stem32.VARIANTS
        ),
        *(
            pytest.param(transfer.get_config(variant), id=f"transfer:{variant}")
            for variant in transfer.VARIANTS
            if variant != "frozen"
        ),
        pytest.param(upsample.get_config("64"), id="upsample:64"),
        pytest.param(quickstart.get_config(), id="quickstart"),
        pytest.param(smoke.get_config(), id="smoke"),
    ],
)
def test_shipped_config_has_no_findings(config):
    found = check_fields(config, {})
    assert {name: each for name, each in found.items() if each} == {}


def test_only_blocks_that_stay_frozen_count_as_frozen():
    frozen = {"transfer.unfreeze_epochs.block1": math.inf}
    run = make_settings(transfer.get_config("gradual"), frozen)
    assert not run.is_frozen
    assert make_settings(FROZEN).is_frozen
