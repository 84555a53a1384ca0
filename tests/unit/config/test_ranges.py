"""Config values and combinations that the check accepts or refuses."""

import importlib
import math
import subprocess
import sys

import pytest

from configs import baselines, default, stem32, transfer
from job import errors
from job.config import ranges, serialization
from tests.support.jobs import ROOT

SHIPPED = [
    ("default", ""),
    ("quickstart", ""),
    ("smoke", ""),
    ("naive", ""),
    ("advice_augment", ""),
    ("advice_frozen", ""),
    ("advice_upsample", ""),
    *(("stem32", v) for v in ("", *stem32.VARIANTS)),
    *(("baselines", v) for v in ("", *baselines.VARIANTS)),
    *(("upsample", v) for v in ("", "64", "96", "128", "160", "224")),
    *(("transfer", v) for v in ("", *transfer.VARIANTS)),
    ("ablations", ""),
]


@pytest.mark.parametrize(("name", "variant"), SHIPPED)
def test_every_shipped_config_is_complete_and_valid(name, variant):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(*([variant] if variant else []))
    ranges.check(config)
    wanted = serialization.flatten(default.get_config()).keys()
    assert serialization.flatten(config).keys() == wanted


def test_shipped_lists_every_config_file():
    found = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert found - {"__init__", "augment_presets"} == {
        name for name, _ in SHIPPED
    }


def test_every_field_has_a_range_or_is_a_bool():
    fields = serialization.flatten(default.get_config())
    for name, value in fields.items():
        assert isinstance(value, bool) or name in ranges.RANGES, name
    assert ranges.RANGES.keys() <= fields.keys()


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
        ("evaluate.every_epochs", -1.0),
        ("checkpoint.keep", 1),
        ("distribute.strategy", "parameter_server"),
        ("distribute.logical_devices", 65),
        ("distribute.all_reduce", "ring"),
    ],
)
def test_value_out_of_range_is_refused_by_name(config, name, value):
    set_field(config, name, value)
    with pytest.raises(errors.ConfigError, match=rf"--config\.{name}=.*: must"):
        ranges.check(config)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("augment.hue", 0.7, "0 to 0.5"),
        ("augment.brightness", 11.0, "0 to 10"),
        ("epochs", 2e6, "0 to 1,000,000"),
        ("global_batch_size", 0, "1 to 1,048,576"),
    ],
)
def test_an_error_names_both_limits(config, name, value, limits):
    set_field(config, name, value)
    with pytest.raises(errors.ConfigError, match=f"must be {limits}$"):
        ranges.check(config)


def test_missing_field_is_refused_by_name(config):
    del config.optimizer.momentum
    with pytest.raises(
        errors.ConfigError, match=r"optimizer\.momentum.*missing"
    ):
        ranges.check(config)


def test_unknown_field_and_wrong_type_are_refused_by_name(config):
    config.optimizer.momentm = 0.5
    with pytest.raises(errors.ConfigError, match=r"momentm: unknown field"):
        ranges.check(config)
    del config.optimizer.momentm
    with config.ignore_type():
        config.epochs = "many"
    with pytest.raises(errors.ConfigError, match=r"epochs=many: .*float"):
        ranges.check(config)


def test_sync_batch_norm_excludes_xla(config):
    config.distribute.sync_batch_norm = True
    config.jit_compile = "on"
    with pytest.raises(errors.ConfigError, match="jit_compile"):
        ranges.check(config)


def test_indivisible_batch_is_refused_with_the_nearest_divisible_one(config):
    config.global_batch_size = 65
    with pytest.raises(errors.ConfigError, match=r"65.*2 replicas, such as 64"):
        ranges.check_replicas(serialization.flatten(config), 2)
    # 4 nodes with 8 GPUs each.
    config.global_batch_size = 1024
    ranges.check_replicas(serialization.flatten(config), 32)


@pytest.mark.parametrize("field", ["mixup_alpha", "cutmix_probability"])
def test_mixing_needs_an_even_batch_per_replica(config, field):
    config.global_batch_size = 66
    ranges.check(config)
    config.augment[field] = 0.5
    ranges.check(config)
    said = rf"=66: .*multiple of 4, such as 68, with --config.augment.{field}"
    with pytest.raises(errors.ConfigError, match=said):
        ranges.check_replicas(serialization.flatten(config), 2)
    config.distribute.logical_devices = 2
    with pytest.raises(errors.ConfigError, match=said):
        ranges.check(config)
    config.distribute.logical_devices = 0
    config.global_batch_size = 63
    with pytest.raises(errors.ConfigError, match="multiple of 2, such as 64"):
        ranges.check(config)


def test_modules_of_a_config_error_import_no_tensorflow():
    code = (
        "import sys\n"
        "import job.main, job.errors, job.supervision.preemption\n"
        "import job.config.augmentation, job.config.ranges, job.config.resume\n"
        "import job.config.run_config, job.config.serialization\n"
        "import job.output.results, job.checkpoint.store\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def set_field(config, name, value):
    *groups, field = name.split(".")
    for group in groups:
        config = config[group]
    config[field] = value


def test_blocks_unfreeze_from_the_output_to_the_input(config):
    config.model.weights = "x.h5"
    config.model.batch_norm = False
    config.model.width = 1.0
    opens = config.transfer.unfreeze_epochs
    opens.block1, opens.block2 = math.inf, 2.0
    ranges.check(config)
    opens.block3 = 3.0
    with pytest.raises(errors.ConfigError, match=r"block2=2\.0: .*at least 3"):
        ranges.check(config)


def test_random_weights_cannot_be_frozen(config):
    config.transfer.unfreeze_epochs.block1 = 1.0
    with pytest.raises(errors.ConfigError, match=r"model\.weights='': must"):
        ranges.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0.5),
        ("stem_filters", 32),
        ("batch_norm", True),
    ],
)
def test_pretrained_weights_need_their_own_layers(config, field, value):
    config.model.weights = "imagenet"
    config.model.batch_norm = False
    config.model.width = 1.0
    ranges.check(config)
    config.model[field] = value
    with pytest.raises(
        errors.ConfigError, match=f"model.{field}={value!r}: must"
    ):
        ranges.check(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("optimizer.name", "adam"), ("model.batch_norm", False)],
)
def test_muon_needs_sgd_and_batch_norm(config, field, value):
    config.optimizer.muon_ratio = 0.125
    ranges.check(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(
        errors.ConfigError, match=f"muon_ratio=0.125: must.*{field}={value}"
    ):
        ranges.check(config)


def test_the_fold_is_one_of_the_slices(config):
    for fraction, last in ((0.0, 0), (0.1, 9), (0.3, 2)):
        config.data.validation_fraction = fraction
        config.data.validation_fold = last
        ranges.check(config)
        config.data.validation_fold = last + 1
        with pytest.raises(
            errors.ConfigError, match=f"validation_fold.*below {last + 1}"
        ):
            ranges.check(config)


def test_progressive_sizes_match_their_epochs(config):
    config.model.progressive_sizes = (64, 96)
    config.model.progressive_epochs = (1.0, 2.0)
    ranges.check(config)
    config.model.progressive_epochs = (2, 1)
    with pytest.raises(errors.ConfigError, match="ascending"):
        ranges.check(config)
    config.model.progressive_epochs = (1, 2)
    config.model.head_pooling = "flatten"
    with pytest.raises(errors.ConfigError, match=r"avg with --config\.model"):
        ranges.check(config)
