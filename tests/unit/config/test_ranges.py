"""The config room: what is refused, and what a resume may change."""

import importlib
import json
import math
import pathlib
import subprocess
import sys

import pytest

from configs import augment_presets, default, peers, stem32, transfer
from job import errors
from job.config import ranges as config_lib
from tests.support.jobs import ROOT

SHIPPED = [
    ("default", ""),
    ("quickstart", ""),
    ("smoke", ""),
    ("naive", ""),
    ("seed_augment", ""),
    ("seed_frozen", ""),
    ("seed_upsample", ""),
    *(("stem32", v) for v in ("", *stem32._VARIANTS)),
    *(("peers", v) for v in ("", *peers._VARIANTS)),
    *(("upsample", v) for v in ("", "64", "96", "128", "160", "224")),
    *(("transfer", v) for v in ("", *transfer._VARIANTS)),
    ("ablations", ""),
]


@pytest.mark.parametrize(("name", "variant"), SHIPPED)
def test_every_shipped_config_is_whole_and_passes(name, variant):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(*([variant] if variant else []))
    config_lib.check(config)
    wanted = config_lib.flatten(default.get_config()).keys()
    assert config_lib.flatten(config).keys() == wanted


def test_no_config_file_is_left_out_above():
    found = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert found - {"__init__", "augment_presets"} == {
        name for name, _ in SHIPPED
    }


def test_every_field_has_a_rule_or_is_a_bool():
    fields = config_lib.flatten(default.get_config())
    for name, value in fields.items():
        assert isinstance(value, bool) or name in config_lib._RULES, name
    assert config_lib._RULES.keys() <= fields.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("epochs", -1.0),
        ("epochs", math.nan),
        ("epochs", math.inf),
        ("global_batch_size", 0),
        ("precision", "float8"),
        ("log_every_steps", 0),
        ("jit_compile", "yes"),
        ("data.source", "imagenet"),
        ("model.input_size", 48),
        ("model.input_size", 0),
        ("model.upsampling", "lanczos"),
        ("model.head_units", (0,)),
        ("model.head_units", (1.5,)),
        ("model.dropout", 1.0),
        ("model.preprocessing", "none"),
        ("model.progressive_sizes", (8,)),
        ("model.progressive_sizes", (20,)),
        ("model.weights", "http://example.org/x.h5"),
        ("optimizer.name", "adamw"),
        ("transfer.layer_decay", 0.0),
        ("transfer.warmup_epochs", math.inf),
        ("data.dir", "s3://bucket/data"),
        ("data.archive_sha256", "123"),
        ("data.validation_fraction", 1.0),
        ("model.width", 0.0),
        ("model.width", math.nan),
        ("model.pooling", "min"),
        ("model.init", "zeros"),
        ("augment.preset", "weak"),
        ("augment.flip", "up"),
        ("augment.fill", "constant"),
        ("augment.rotation_degrees", -15.0),
        ("augment.rotation_degrees", 181.0),
        ("augment.shift", 1.0),
        ("augment.shear", 90.0),
        ("augment.zoom", 1.0),
        ("augment.brightness", -0.1),
        ("augment.contrast", math.nan),
        ("augment.saturation", math.inf),
        ("augment.hue", 0.6),
        ("augment.autoaugment", 1.1),
        ("augment.randaugment_magnitude", 11.0),
        ("augment.mixup_alpha", 0.001),
        ("augment.cutmix_probability", 2.0),
        ("augment.translate", 2.5),
        ("augment.translate", 32.0),
        ("augment.cutout_pixels", -1.0),
        ("optimizer.peak_learning_rate", -0.1),
        ("optimizer.momentum", 1.0),
        ("optimizer.weight_decay", math.inf),
        ("optimizer.schedule", "step"),
        ("optimizer.label_smoothing", 1.0),
        ("optimizer.ema_decay", 1.5),
        ("optimizer.clip_norm", -1.0),
        ("optimizer.beta_rate", -1.0),
        ("optimizer.sam_rho", math.nan),
        ("optimizer.lookahead_steps", -1),
        ("evaluate.every_epochs", -1.0),
        ("checkpoint.keep", 1),
        ("distribute.strategy", "parameter_server"),
        ("distribute.logical_devices", 65),
        ("distribute.all_reduce", "ring"),
    ],
)
def test_a_bad_value_is_refused_by_name(config, name, value):
    _set(config, name, value)
    with pytest.raises(errors.ConfigError, match=rf"config\.{name} is .*must"):
        config_lib.check(config)


def test_a_missing_field_is_refused_by_name(config):
    del config.optimizer.momentum
    with pytest.raises(
        errors.ConfigError, match=r"optimizer\.momentum.*missing"
    ):
        config_lib.check(config)


def test_a_field_too_many_or_of_another_type_is_refused_by_name(config):
    config.optimizer.momentm = 0.5
    with pytest.raises(errors.ConfigError, match=r"momentm is no field"):
        config_lib.check(config)
    del config.optimizer.momentm
    with config.ignore_type():
        config.epochs = "many"
    with pytest.raises(errors.ConfigError, match=r"epochs is 'many'.*float"):
        config_lib.check(config)


def test_sync_batch_norm_does_not_go_with_xla(config):
    config.distribute.sync_batch_norm = True
    config.jit_compile = "on"
    with pytest.raises(errors.ConfigError, match="jit_compile"):
        config_lib.check(config)


def test_a_batch_that_does_not_split_is_refused_with_one_that_does(config):
    config.global_batch_size = 65
    with pytest.raises(errors.ConfigError, match=r"65.*2 replicas, such as 64"):
        config_lib.check_replicas(config_lib.flatten(config), 2)
    # 4 nodes with 8 GPUs each; an evaluation's is filled up.
    config.global_batch_size = 1024
    config_lib.check_replicas(config_lib.flatten(config), 32)


@pytest.mark.parametrize("field", ["mixup_alpha", "cutmix_probability"])
def test_images_are_mixed_in_pairs_within_a_replica(config, field):
    config.global_batch_size = 66
    config_lib.check(config)
    config.augment[field] = 0.5
    config_lib.check(config)
    said = rf"66; .*multiple of 4, such as 68, with config.augment.{field}"
    with pytest.raises(errors.ConfigError, match=said):
        config_lib.check_replicas(config_lib.flatten(config), 2)
    config.distribute.logical_devices = 2
    with pytest.raises(errors.ConfigError, match=said):
        config_lib.check(config)
    config.distribute.logical_devices = 0
    config.global_batch_size = 63
    with pytest.raises(errors.ConfigError, match="multiple of 2, such as 64"):
        config_lib.check(config)


def test_a_preset_replaces_the_file_and_yields_to_the_command_line(config):
    config.augment.preset = "strong"
    config.augment.translate = 2.0
    config.augment.cutout_pixels = 4.0
    config_lib.use_preset(config, {"augment.cutout_pixels", "seed"})
    assert config.augment.translate == 4.0
    assert config.augment.autoaugment == 1.0
    assert config.augment.cutout_pixels == 4.0
    config_lib.check(config)


def test_no_preset_leaves_all_as_it_is(config):
    before = config_lib.flatten(config)
    config_lib.use_preset(config, ())
    assert config_lib.flatten(config) == before


def test_an_unknown_preset_is_refused_by_name(config):
    config.augment.preset = "weak"
    with pytest.raises(errors.ConfigError, match=r"preset is 'weak'.*strong"):
        config_lib.use_preset(config, ())


def test_a_preset_and_its_fields_by_hand_are_the_same_run(config):
    by_hand = config_lib.flatten(config) | {
        f"augment.{field}": value
        for field, value in augment_presets.fields("strong").items()
    }
    config.augment.preset = "strong"
    config_lib.use_preset(config, ())
    fields = config_lib.flatten(config)
    assert config_lib.differences(by_hand, fields) == []
    assert config_lib.fingerprint(by_hand) == config_lib.fingerprint(fields)


def test_a_resume_may_change_cadences_but_not_results(config):
    saved = config_lib.flatten(config)
    config.epochs = 5.0
    config.log_every_steps = 1
    config.checkpoint.keep = 3
    config.distribute.logical_devices = 2
    fields = config_lib.flatten(config)
    assert config_lib.differences(saved, fields) == []
    assert config_lib.fingerprint(saved) == config_lib.fingerprint(fields)
    config.optimizer.momentum = 0.8
    fields = config_lib.flatten(config)
    changed = config_lib.differences(saved, fields)
    assert changed == ["optimizer.momentum: 0.9 -> 0.8"]
    assert config_lib.fingerprint(saved) != config_lib.fingerprint(fields)


def test_rooms_before_the_devices_import_no_tensorflow(tmp_path: pathlib.Path):
    code = (
        "import sys\n"
        "import job.config, job.errors, job.main, job.preemption, job.results\n"
        "import job.checkpoint.store\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def _set(config, name, value):
    *groups, field = name.split(".")
    for group in groups:
        config = config[group]
    config[field] = value


def test_blocks_open_from_the_output_on(config):
    config.model.weights = "x.h5"
    config.model.batch_norm = False
    config.model.width = 1.0
    opens = config.transfer.unfreeze_epochs
    opens.block1, opens.block2 = math.inf, 2.0
    config_lib.check(config)
    opens.block3 = 3.0
    with pytest.raises(
        errors.ConfigError, match=r"block2 is 2.0; .*at least 3"
    ):
        config_lib.check(config)


def test_what_is_random_is_not_frozen(config):
    config.transfer.unfreeze_epochs.block1 = 1.0
    with pytest.raises(errors.ConfigError, match=r"model.weights is ''"):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0.5),
        ("stem_filters", 32),
        ("batch_norm", True),
        ("whitening", True),
    ],
)
def test_weights_ask_for_their_own_layers(config, field, value):
    config.model.weights = "imagenet"
    config.model.batch_norm = False
    config.model.width = 1.0
    config_lib.check(config)
    config.model[field] = value
    with pytest.raises(errors.ConfigError, match=f"model.{field} is {value}"):
        config_lib.check(config)


def test_one_average_is_enough(config):
    config.optimizer.lookahead_steps = 5
    with pytest.raises(errors.ConfigError, match=r"ema_decay is 0.9;.*lookah"):
        config_lib.check(config)
    config.optimizer.ema_decay = 0.0
    config_lib.check(config)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("model.pool_first", True), ("model.batch_norm", False)),
        (("optimizer.beta_rate", 8.0), ("model.batch_norm", False)),
        (("distribute.sync_batch_norm", True), ("optimizer.sam_rho", 0.05)),
        (("model.preprocessing", "unit"), ("model.whitening", True)),
        (("model.input_size", 64), ("model.whitening", True)),
        (
            ("model.progressive_sizes", (32,)),
            ("model.whitening", True),
        ),
    ],
)
def test_what_does_not_go_together_is_refused(config, first, then):
    config.model.progressive_epochs = (1.0,) * ("sizes" in first[0])
    _set(config, *first)
    config_lib.check(config)
    _set(config, *then)
    with pytest.raises(errors.ConfigError, match=rf"config\.{first[0]} is "):
        config_lib.check(config)


def test_a_run_of_an_older_job_has_the_new_fields_as_they_are_by_default(
    config, tmp_path
):
    saved = config_lib.to_json(config)
    del saved["optimizer"]["sam_rho"], saved["model"]["whitening"]
    (tmp_path / config_lib.FILE).write_text(json.dumps(saved))
    loaded = config_lib.load(tmp_path)
    assert config_lib.flatten(loaded) == config_lib.flatten(config)
    fields = config_lib.flatten(config)
    older = {k: v for k, v in fields.items() if k != "optimizer.sam_rho"}
    assert config_lib.differences(older, fields) == []
    config.optimizer.sam_rho = 0.05
    assert config_lib.differences(older, config_lib.flatten(config)) == [
        "optimizer.sam_rho: 0.0 -> 0.05"
    ]


def test_progressive_sizes_fit_together(config):
    config.model.progressive_sizes = (64, 96)
    config.model.progressive_epochs = (1.0, 2.0)
    config_lib.check(config)
    config.model.progressive_epochs = (2, 1)
    with pytest.raises(errors.ConfigError, match="ascending"):
        config_lib.check(config)
    config.model.progressive_epochs = (1, 2)
    config.model.head_pooling = "flatten"
    with pytest.raises(errors.ConfigError, match=r"avg with model.progressive"):
        config_lib.check(config)


def test_an_infinite_epoch_survives_the_workdir(config, tmp_path):
    config.model.weights = "x.h5"
    config.model.batch_norm = False
    config.model.width = 1.0
    config.transfer.unfreeze_epochs.block1 = math.inf
    text = json.dumps(config_lib.to_json(config), allow_nan=False)
    (tmp_path / config_lib.FILE).write_text(text)
    loaded = config_lib.load(tmp_path)
    assert loaded.transfer.unfreeze_epochs.block1 == math.inf
    assert config_lib.flatten(loaded) == config_lib.flatten(config)
