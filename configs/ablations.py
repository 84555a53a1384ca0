"""Ablation plans: sets of runs that measure the effect of one change each.

    make ablate PLAN=ladder DATA=DIR              # all variants and a report
    python -m job.main --config=configs/ablations.py:ladder/batch_norm \
        --workdir=runs/a --config.data.dir=DIR    # one variant

    plan                variants
    ladder              from naive to the full recipe, with cumulative changes
    augment             the last recipe of the ladder, one augmentation each
    over                the last recipe of the ladder, stronger augmentation
    resolution          frozen ImageNet features by size and upsampling kernel
    unfreeze            ImageNet's weights: frozen, all at once, gradually
    scratch             from scratch at 32 and 64 pixels
    recipe              SGD at width 0.25, one change, held-out images
    recipe_muon         Muon at width 0.25, one change, other held-out images
    recipe_20ep         Muon at width 0.5, 20 epochs, other held-out images
    recipe_augmentation stem32.py:20ep with and without augmentation
    naive_augmentation  naive.py, 20 epochs, with and without augmentation
    transfer_cost       ImageNet's weights, 6 and 2 epochs at full width
    scratch_cost        the same epochs from scratch
    full_width          candidates for width 1: held-out images
    naive_rates         naive.py at several learning rates, held-out images
    baseline_search     baselines.py:common with one change, held-out images
    baseline_sum        the combined improvements, and one further change
    baselines           stem32.py and the recipes of baselines.py, for a CPU
    baselines_half      the same at half the cost
    baselines_gpu       the same at full width, also for 100 and 200 epochs
    baselines_transfer  ImageNet's weights at 64 and 128 pixels, for a GPU

Flags override the fields of every variant. The plans ladder, augment, over and
scratch are sized for 2 CPU cores (width 0.25, 5 epochs). On a GPU, add
`--config.model.width=1 --config.epochs=30 --seeds=3`. Without network access,
resolution, unfreeze, transfer_cost and baselines_transfer need
`--config.model.weights=PATH`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import (
    augment_presets,
    baselines,
    default,
    naive,
    stem32,
    transfer,
)

_Overrides = Mapping[str, Any]


_BUDGET: _Overrides = {
    "epochs": 5.0,
    "global_batch_size": 128,
    "precision": "bfloat16",
    "evaluate.every_epochs": 1.0,
    "model.width": 0.25,
}

_SGD: _Overrides = {
    "optimizer.name": "sgd",
    "optimizer.peak_learning_rate": 0.1,
    "optimizer.schedule": "linear",
    "optimizer.warmup_epochs": 1.0,
    "optimizer.weight_decay": 5e-4,
}

# Each entry adds to all entries before it.
_LADDER: dict[str, _Overrides] = {
    # The best learning rate of the plan naive_rates. At the 1e-3 of most
    # tutorials the network does not train.
    "naive_3e-4": {"optimizer.peak_learning_rate": 3e-4},
    "batch_norm": {"model.batch_norm": True},
    "small_head": {"model.head_units": (), "model.dropout": 0.0},
    "sgd": _SGD,
    "init_and_scale": {
        "model.init": "he_fan_out",
        "model.preprocessing": "standardize",
    },
    "average_pooling": {"model.pooling": "avg"},
    "ema": {"optimizer.ema_decay": 0.995},
    "augmentation": {"augment.flip": "alternating", "augment.translate": 2.0},
    "label_smoothing": {"optimizer.label_smoothing": 0.1},
}

# Plan -> its cumulative variants, each compared with the previous one. In other
# plans, and in side branches, each variant is compared with the first one.
CUMULATIVE = {"ladder": tuple(_LADDER)}

# Name of a side branch of the ladder -> its first entry, and its changes.
_BESIDE: dict[str, tuple[str, _Overrides]] = {
    "naive_1e-3": ("naive_3e-4", {"optimizer.peak_learning_rate": 1e-3}),
    "naive_augmentation": (
        "naive_3e-4",
        {"augment.flip": "random", "augment.translate": 4.0},
    ),
}


def _ladder() -> dict[str, _Overrides]:
    steps: dict[str, _Overrides] = {}
    reached: dict[str, Any] = {}
    for name, overrides in _LADDER.items():
        reached |= overrides
        steps[name] = dict(reached)
        for beside, (line, alone) in _BESIDE.items():
            if line == name:
                steps[beside] = {**steps[line], **alone}
    return steps


_UNAUGMENTED: _Overrides = {
    "augment.flip": "none",
    "augment.translate": 0.0,
    "augment.cutout_pixels": 0.0,
}


def _alone(**fields: Any) -> _Overrides:
    """Returns overrides that enable a single augmentation."""
    return {
        **_UNAUGMENTED,
        **{f"augment.{name}": value for name, value in fields.items()},
    }


def _preset(name: str, **fields: Any) -> _Overrides:
    """Returns the overrides of a preset, with some fields replaced."""
    values = {**augment_presets.fields(name), **fields}
    return {f"augment.{field}": value for field, value in values.items()}


_AT_ONCE = {f"transfer.unfreeze_epochs.block{i}": 0.0 for i in range(1, 6)}


# stem32.py before Muon, the base of the earlier search.
_SGD_RECIPE: _Overrides = {
    "epochs": 8.0,
    "global_batch_size": 256,
    "model.init": "he_fan_out",
    "model.progressive_sizes": (),
    "model.progressive_epochs": (),
    "optimizer.muon_ratio": 0.0,
    "optimizer.peak_learning_rate": 0.2,
    "optimizer.warmup_epochs": 1.6,
    "optimizer.ema_decay": 0.99,
}

# An image of 24 pixels costs 0.60 times as much as one of 32 pixels. 10 epochs
# with small images in the first half therefore cost as much as 8.
_SMALL_FIRST: _Overrides = {
    "model.progressive_sizes": (24,),
    "model.progressive_epochs": (5.0,),
    "epochs": 10.0,
    "optimizer.warmup_epochs": 2.0,
}
_BATCH_128: _Overrides = {
    "global_batch_size": 128,
    "optimizer.peak_learning_rate": 0.1,
    "optimizer.ema_decay": 0.995,
}

# 10,000 training images that no search at width 0.25 has seen.
_HELD_OUT: _Overrides = {
    "data.validation_fraction": 0.2,
    "data.validation_fold": 1,
}

_HALF_WIDTH: _Overrides = {"model.width": 0.5, "evaluate.every_epochs": 2.0}

_SMOOTHING_256: _Overrides = {
    "global_batch_size": 256,
    "optimizer.peak_learning_rate": 0.2,
    "optimizer.ema_decay": 0.99,
    "optimizer.label_smoothing": 0.1,
}


def _size(size: int, upsampling: str = "bilinear") -> _Overrides:
    # An evaluation step has as many pixels as 1,000 images of 32 x 32 pixels.
    batch = max(1, 1000 * 32**2 // size**2)
    return {
        "model.input_size": size,
        "model.upsampling": upsampling,
        "evaluate.global_batch_size": batch,
    }


def _fields(
    config: ml_collections.ConfigDict, prefix: str = ""
) -> dict[str, Any]:
    """Flattens a config to dotted field names."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _tuned(**fields: Any) -> _Overrides:
    return {
        **_fields(baselines.get_config("tuned")),
        "evaluate.every_epochs": 2.0,
        **fields,
    }


def _baselines(**budget: Any) -> dict[str, _Overrides]:
    return {
        name: {**_fields(baselines.get_config(name)), **budget}
        for name in ("common", "autoaugment_cutout")
    }


def _baselines_gpu() -> dict[str, _Overrides]:
    """Returns the variants of each length: baselines, stem32 and its ablations.

    The most informative runs come first, as GPU time may be limited.
    """
    variants: dict[str, _Overrides] = {
        "baseline_tuned": {
            **_fields(baselines.get_config("tuned")),
            "model.width": 1.0,
        }
    }
    for name in ("20ep_full_width", "100ep", "200ep"):
        fields = _fields(stem32.get_config(name))
        # The cost is equal; see `_SMALL_FIRST`.
        epochs = 0.8 * fields["epochs"]
        published = _baselines(epochs=epochs)
        variants |= {
            f"common_{epochs:g}": published["common"],
            f"stem32_{name}": fields,
            f"autoaugment_cutout_{epochs:g}": published["autoaugment_cutout"],
        }
    best = variants["stem32_100ep"]
    variants |= {
        "stem32_100ep_max": {**best, "model.pooling": "max"},
        "stem32_100ep_no_cutmix": {**best, "augment.cutmix_probability": 0.0},
    }
    return {
        name: {
            **fields,
            # The interval resolves when one recipe reaches the final accuracy
            # of another. An evaluation takes as long as half an epoch.
            "evaluate.every_epochs": 2.0 if fields["epochs"] <= 20.0 else 5.0,
            # An epoch at batch 128 has 391 steps and takes 1 to 2 s.
            "log_every_steps": 200,
        }
        for name, fields in variants.items()
    }


# Plan -> (base config, budget), and overrides per variant. The other variants
# are compared with the first one.
PLANS: dict[str, tuple[ml_collections.ConfigDict, dict[str, _Overrides]]] = {
    "ladder": (
        (naive.get_config(), _BUDGET),
        _ladder(),
    ),
    "augment": (
        (naive.get_config(), {**_BUDGET, **_ladder()["label_smoothing"]}),
        {
            "none": _UNAUGMENTED,
            "flip": _alone(flip="alternating"),
            "random_flip": _alone(flip="random"),
            "translate": _alone(translate=2.0),
            "rotation": _alone(rotation_degrees=15.0),
            "shift": _alone(shift=0.1),
            "shear": _alone(shear=15.0),
            "zoom": _alone(zoom=0.1),
            "brightness": _alone(brightness=0.3),
            "contrast": _alone(contrast=0.3),
            "saturation": _alone(saturation=0.3),
            "hue": _alone(hue=0.05),
            "cutout": _alone(cutout_pixels=8.0),
            "mixup": _alone(mixup_alpha=0.2),
            "cutmix": _alone(cutmix_probability=0.5),
            "randaugment": _alone(randaugment_magnitude=3.0),
            "autoaugment": _alone(autoaugment=1.0),
        },
    ),
    "over": (
        (naive.get_config(), {**_BUDGET, **_ladder()["label_smoothing"]}),
        {
            "flip_translate_2": {},
            "none": _UNAUGMENTED,
            "crop_flip": _preset("crop_flip"),
            "keras_classic": _preset("keras_classic"),
            "strong": _preset("strong"),
            "too_much": _preset(
                "strong", rotation_degrees=45.0, hue=0.5, mixup_alpha=1.0
            ),
        },
    ),
    "resolution": (
        (
            transfer.get_config("frozen"),
            {
                "data.train_images": 5000,
                "data.test_images": 2000,
                "evaluate.tta": False,
                "epochs": 100.0,
                # Tuned on held-out images at 32 and 64 pixels.
                "optimizer.weight_decay": 3.0,
            },
        ),
        {
            "32": {},
            "64_nearest": _size(64, "nearest"),
            "64_bilinear": _size(64),
            "64_bicubic": _size(64, "bicubic"),
            "96": _size(96),
            "128": _size(128),
        },
    ),
    "unfreeze": (
        (
            transfer.get_config("gradual"),
            {"data.train_images": 10000, "evaluate.tta": False},
        ),
        {
            "gradual": {},
            "uniform_rate": {"transfer.layer_decay": 1.0},
            **{
                f"at_once_{rate}": {
                    **_AT_ONCE,
                    "optimizer.peak_learning_rate": rate,
                }
                for rate in (0.02, 0.04, 0.08)
            },
            "frozen": {
                **_fields(transfer.get_config("frozen")),
                "data.train_images": 10000,
                "evaluate.tta": False,
            },
        },
    ),
    "scratch": (
        (
            stem32.get_config("10ep"),
            {**_SGD_RECIPE, **_BUDGET, "evaluate.every_epochs": 0.0},
        ),
        {
            "32": {},
            "64_nearest": _size(64, "nearest"),
            "64_bilinear": _size(64),
            "64_bicubic": _size(64, "bicubic"),
            "32_to_64": {
                **_size(64),
                "model.progressive_sizes": (32,),
                "model.progressive_epochs": (4.0,),
            },
        },
    ),
    "recipe": (
        (
            stem32.get_config("10ep"),
            {
                **_SGD_RECIPE,
                "data.validation_fraction": 0.1,
                "evaluate.every_epochs": 0.0,
                "model.width": 0.25,
            },
        ),
        {
            "8ep": {},
            "dirac": {"model.init": "dirac"},
            "no_average": {"optimizer.ema_decay": 0.0},
            "progressive_24_same_cost": _SMALL_FIRST,
            "dirac_progressive_24_same_cost": {
                **_SMALL_FIRST,
                "model.init": "dirac",
            },
            "dirac_progressive_24_batch_128_same_cost": {
                **_SMALL_FIRST,
                **_BATCH_128,
                "model.init": "dirac",
            },
            "peak_rate_half": {"optimizer.peak_learning_rate": 0.1},
            "peak_rate_twice": {"optimizer.peak_learning_rate": 0.4},
            "batch_128": _BATCH_128,
            "cosine": {"optimizer.schedule": "cosine"},
            "label_smoothing_twice": {"optimizer.label_smoothing": 0.2},
            "cutmix": {"augment.cutmix_probability": 0.25},
            "cutout_8": {"augment.cutout_pixels": 8.0},
            "no_label_smoothing": {"optimizer.label_smoothing": 0.0},
            "weight_decay_half": {"optimizer.weight_decay": 5e-4},
            "weight_decay_twice": {"optimizer.weight_decay": 2e-3},
            "max_pooling": {"model.pooling": "max"},
            "stem_filters_8": {"model.stem_filters": 8},
            "stem_filters_32": {"model.stem_filters": 32},
        },
    ),
    "recipe_muon": (
        (
            stem32.get_config("10ep"),
            {
                "data.validation_fraction": 0.1,
                # No earlier search has seen these images.
                "data.validation_fold": 1,
                "evaluate.every_epochs": 0.0,
                "model.width": 0.25,
            },
        ),
        {
            "sgd": {**_SGD_RECIPE, **_SMALL_FIRST, "model.init": "dirac"},
            "10ep": {},
            "rate_0.1": {"optimizer.muon_ratio": 0.25},
            "rate_0.03": {"optimizer.muon_ratio": 0.075},
            "momentum_0.8": {"optimizer.momentum": 0.8},
        },
    ),
    "recipe_20ep": (
        (
            stem32.get_config("20ep"),
            _HELD_OUT,
        ),
        {
            "20ep": {},
            "translate_4": {"augment.translate": 4.0},
            "cutmix": {"augment.cutmix_probability": 0.25},
        },
    ),
    "recipe_augmentation": (
        (stem32.get_config("20ep"), {}),
        {"augmented": {}, "none": _UNAUGMENTED},
    ),
    "naive_augmentation": (
        (
            naive.get_config(),
            {
                **_BUDGET,
                "epochs": 20.0,
                "model.width": 0.5,
                "optimizer.peak_learning_rate": 3e-4,
            },
        ),
        {"none": {}, "keras_classic": _preset("keras_classic")},
    ),
    "transfer_cost": (
        (transfer.get_config("gradual"), {"evaluate.tta": False}),
        {"6_epochs": {}, "2_epochs": {"epochs": 2.0}},
    ),
    "scratch_cost": (
        (
            stem32.get_config("10ep"),
            {
                **_SGD_RECIPE,
                "model.width": 1.0,
                "epochs": 6.0,
                "optimizer.warmup_epochs": 1.2,
                "evaluate.tta": False,
            },
        ),
        {
            "6_epochs": {},
            "2_epochs": {"epochs": 2.0, "optimizer.warmup_epochs": 0.4},
        },
    ),
    "full_width": (
        (
            stem32.get_config("20ep_full_width"),
            _HELD_OUT,
        ),
        {
            "20ep": {},
            "muon": {
                **_fields(stem32.get_config("20ep")),
                **_HELD_OUT,
                "model.width": 1.0,
            },
            "default_16ep": {
                **_fields(default.get_config()),
                **_HELD_OUT,
                "evaluate.every_epochs": 4.0,
                "epochs": 16.0,
                "optimizer.warmup_epochs": 3.2,
            },
            "translate_4_cutout_8": {
                "augment.translate": 4.0,
                "augment.cutout_pixels": 8.0,
            },
            # The cost is equal, as the network is narrower and the run longer.
            "width_0.75": {
                "model.width": 0.75,
                "epochs": 35.5,
                "optimizer.warmup_epochs": 7.0,
                "model.progressive_epochs": (17.75,),
            },
        },
    ),
    "naive_rates": (
        (
            naive.get_config(),
            {**_BUDGET, "data.validation_fraction": 0.1},
        ),
        {
            "adam_1e-3": {},
            "adam_3e-4": {"optimizer.peak_learning_rate": 3e-4},
            "adam_1e-4": {"optimizer.peak_learning_rate": 1e-4},
            "adam_1e-4_he": {
                "optimizer.peak_learning_rate": 1e-4,
                "model.init": "he_fan_out",
            },
            "sgd_0.02_he": {
                **_SGD,
                "optimizer.peak_learning_rate": 0.02,
                "optimizer.clip_norm": 1.0,
                "model.init": "he_fan_out",
            },
        },
    ),
    "baseline_search": (
        (
            baselines.get_config("common"),
            {
                "epochs": 8.0,
                "model.width": 0.25,
                "data.validation_fraction": 0.1,
                "evaluate.every_epochs": 0.0,
                "optimizer.warmup_epochs": 1.6,
            },
        ),
        {
            "warmup": {},
            "no_warmup": {"optimizer.warmup_epochs": 0.0},
            "linear": {"optimizer.schedule": "linear"},
            "batch_256": {
                "global_batch_size": 256,
                "optimizer.peak_learning_rate": 0.2,
            },
            "ema": {"optimizer.ema_decay": 0.995},
            "average_pooling": {"model.pooling": "avg"},
            "label_smoothing": {"optimizer.label_smoothing": 0.1},
            "weight_decay_1e-3": {"optimizer.weight_decay": 1e-3},
            "weight_decay_2e-3": {"optimizer.weight_decay": 2e-3},
            "reflect": {"augment.fill": "reflect"},
            "translate_2": {
                "augment.fill": "reflect",
                "augment.translate": 2.0,
            },
            "alternating_flip": {"augment.flip": "alternating"},
            "peak_half": {"optimizer.peak_learning_rate": 0.05},
        },
    ),
    "baseline_sum": (
        (
            baselines.get_config("common"),
            {
                "epochs": 8.0,
                "model.width": 0.25,
                "data.validation_fraction": 0.1,
                "evaluate.every_epochs": 0.0,
                "optimizer.warmup_epochs": 1.6,
                "optimizer.schedule": "linear",
                "augment.fill": "reflect",
                "augment.translate": 2.0,
                "model.pooling": "avg",
            },
        ),
        {
            "sum": {},
            "ema": {"optimizer.ema_decay": 0.995},
            "ema_smoothing": {
                "optimizer.ema_decay": 0.995,
                "optimizer.label_smoothing": 0.1,
            },
            "ema_smoothing_256": _SMOOTHING_256,
            "ema_smoothing_256_decay": {
                **_SMOOTHING_256,
                "optimizer.weight_decay": 1e-3,
            },
            "max_pooling": {"model.pooling": "max"},
        },
    ),
    "baselines": (
        (stem32.get_config("20ep"), {"evaluate.every_epochs": 2.0}),
        {
            "baseline_tuned": _tuned(),
            # The cost is equal, as Muon's products are counted.
            "baseline_tuned_muon": _tuned(
                **{
                    "epochs": 15.65,
                    "global_batch_size": 512,
                    "optimizer.muon_ratio": 0.125,
                    "optimizer.peak_learning_rate": 0.4,
                    "optimizer.warmup_epochs": 3.13,
                    "optimizer.ema_decay": 0.98,
                }
            ),
            "stem32": {},
            "stem32_sgd_32_pixels": {
                **_SGD_RECIPE,
                "epochs": 16.0,
                "optimizer.warmup_epochs": 3.2,
            },
            "stem32_sgd": {
                **_SGD_RECIPE,
                **_SMALL_FIRST,
                "epochs": 20.0,
                "model.init": "dirac",
                "model.progressive_epochs": (10.0,),
                "optimizer.warmup_epochs": 4.0,
            },
            **_baselines(epochs=16.0, **_HALF_WIDTH),
        },
    ),
    "baselines_half": (
        (stem32.get_config("10ep"), {"evaluate.every_epochs": 2.0}),
        {
            "baseline_tuned": _tuned(
                **{"epochs": 8.0, "optimizer.warmup_epochs": 1.6}
            ),
            "stem32": {},
            "stem32_sgd": _SGD_RECIPE,
            **_baselines(epochs=8.0, **_HALF_WIDTH),
        },
    ),
    "baselines_gpu": ((stem32.get_config(), {}), _baselines_gpu()),
    "baselines_transfer": (
        (transfer.get_config("gradual128"), {}),
        {f"transfer_{size}": {"model.input_size": size} for size in (64, 128)},
    ),
}


def get_variants(plan: str) -> tuple[str, ...]:
    """Returns the variants of a plan, beginning with the reference.

    Args:
      plan: Name of the plan, a key of PLANS.

    Raises:
      ValueError: The plan does not exist.
    """
    return tuple(_plan(plan)[1])


def get_config(variant: str = "ladder") -> ml_collections.ConfigDict:
    """Returns the config of a variant, or the common config of a plan.

    Args:
      variant: PLAN/VARIANT, or PLAN for the config before any override.

    Raises:
      ValueError: The plan or the variant does not exist.
    """
    plan, _, name = variant.partition("/")
    (base, budget), variants = _plan(plan)
    if name and name not in variants:
        raise ValueError(
            f"unknown variant {name!r} of the plan {plan}. Fix: choose one of"
            f" {', '.join(variants)}"
        )
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict(budget)
    config.update_from_flattened_dict(variants[name] if name else {})
    return config


def _plan(plan: str) -> tuple[Any, dict[str, _Overrides]]:
    if plan not in PLANS:
        raise ValueError(
            f"unknown plan {plan!r} of configs/ablations.py. Fix: choose one of"
            f" {', '.join(PLANS)}"
        )
    return PLANS[plan]
