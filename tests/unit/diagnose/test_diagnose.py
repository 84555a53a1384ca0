"""Diagnose: each check finds its planted fault, and nothing without it.

`PLAIN` and `MODELS` are the table of docs/diagnose.md.
"""

import json
import math
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import (
    augment_presets,
    naive,
    quickstart,
    seed_frozen,
    smoke,
    stem32,
    transfer,
    upsample,
)
from job import errors, train
from job.augment import AugmentSettings, make_augment
from job.config import ranges as config_lib
from job.data import dataset, pipeline, synthetic
from job.diagnose import (
    finding,
    from_config,
    from_data,
    from_run,
    keras_model,
    probes,
    run,
)
from job.storage import workdir
from job.supervision.preemption import StopRequest
from tests.support.jobs import from_environment, run_job

CHANCE = math.log(10)


def labels(count=2000):
    return np.arange(count, dtype=np.int32) % 10


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def split_of(count, seed=0):
    return dataset.Split(images(count, seed), labels(count))


def copies(kind):
    """A data set with a copy of one kind, or none."""
    ours, theirs = split_of(200), split_of(100, seed=1)
    train_images, train_labels = ours.images.copy(), ours.labels.copy()
    test_images = theirs.images.copy()
    if kind == "copies":
        train_images[100:110] = train_images[:10]
    if kind == "two labels":
        train_images[1] = train_images[0]
    if kind == "in the test":
        test_images[:5] = train_images[:5]
    return (
        dataset.Split(train_images, train_labels),
        dataset.Split(test_images, theirs.labels),
    )


def batches_in_order(labels):
    return [labels[i : i + 32] for i in range(0, 320, 32)]


def augment(*, by_replica, **fields):
    """The job's augmentation, or one with the same draws on each replica."""
    ours = make_augment(
        AugmentSettings(**fields),
        seed=0,
        num_images=64,
        global_batch_size=64,
        num_replicas=2,
    )
    if by_replica:
        return ours
    return lambda batch, step, replica: ours(batch, step, tf.constant(0))


def fields_of(config, **changes):
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(changes)
    return config_lib.flatten(config)


def check_fields(name, config, **changes):
    """One of the checks that read a config."""
    replicas = changes.pop("replicas", 1)
    learns = changes.pop("learns", True)
    fields = fields_of(config, **changes)
    return from_config.check_fields(
        fields,
        num_images=50_000,
        replicas=replicas,
        drawn=fields["data.source"] == "synthetic",
        learns=learns,
    )[name]


def line(step, loss, accuracy, split="train"):
    return {
        "step": step,
        "epoch": step / 100,
        "split": split,
        "loss": loss,
        "accuracy": accuracy,
    }


TESTS = [line(100, 1.0, 0.71, "test"), line(200, 1.0, 0.70, "test")]
FALLS = [2.3 - 0.25 * i for i in range(9)]
STAYS = [2.302, 2.31, 2.301] * 10
SLOW = [2.3 - 0.01 * i for i in range(probes.STEPS)]


def ranged(best):
    """A range test at 0.1 whose loss falls fastest at `best`."""
    rates = np.geomspace(1e-3, 1e2, 30)
    pairs = [(float(r), 2.3 if r < best else 0.5) for r in rates]
    return probes.read_range(pairs)


def check_learning(losses, *, batch_norm):
    return probes.check_learning(
        losses,
        batch_norm=batch_norm,
        rate=0.1,
        peak_learning_rate=0.4,
        images=32,
    )


def check_range(best, learnt):
    return probes.check_range(
        ranged(best),
        rate=0.1,
        peak_learning_rate=0.4,
        learnt=learnt,
        images=32,
    )


STRONG = {
    f"augment.{field}": value
    for field, value in augment_presets.fields("strong").items()
}
FROZEN = {f"transfer.unfreeze_epochs.block{i}": math.inf for i in range(1, 6)}
STEM = stem32.get_config()

# check -> with the fault, and without.
PLAIN = {
    "stuck_at_chance": (
        lambda: check_learning(STAYS, batch_norm=False),
        lambda: check_learning(FALLS, batch_norm=False),
    ),
    "stuck_at_chance of a record": (
        lambda: from_run.check_record_stuck([line(500, 2.3031, 0.1)]),
        lambda: from_run.check_record_stuck([line(500, 2.25, 0.14)]),
    ),
    "overfit_one_batch": (
        lambda: check_learning(SLOW, batch_norm=True),
        lambda: check_learning(FALLS, batch_norm=True),
    ),
    "overfit_one_batch, diverged": (
        lambda: check_learning([2.3, 9.0, math.nan], batch_norm=True),
        lambda: check_learning([2.3, 9.0, 0.05], batch_norm=True),
    ),
    "first_loss": (
        lambda: probes.check_first_loss(40.0),
        lambda: probes.check_first_loss(2.35),
    ),
    "dead_relus": (
        lambda: probes.check_dead_relus({"a": 0.1, "b": 0.97}, 64),
        lambda: probes.check_dead_relus({"a": 0.1, "b": 0.6}, 64),
    ),
    "range_test, too low": (
        lambda: check_range(30.0, learnt=False),
        lambda: check_range(30.0, learnt=True),
    ),
    "range_test, too high": (
        lambda: check_range(0.003, learnt=False),
        lambda: check_range(0.003, learnt=True),
    ),
    "rate_rule, too low": (
        lambda: check_fields(
            "rate_rule", STEM, **{"optimizer.peak_learning_rate": 0.01}
        ),
        lambda: check_fields("rate_rule", STEM),
    ),
    "rate_rule, too high": (
        lambda: check_fields(
            "rate_rule", STEM, **{"optimizer.peak_learning_rate": 4.0}
        ),
        lambda: check_fields("rate_rule", naive.get_config()),
    ),
    "constant_rate": (
        lambda: check_fields("constant_rate", naive.get_config()),
        lambda: check_fields("constant_rate", STEM),
    ),
    "constant_rate, a warm-up as long as the run": (
        lambda: check_fields(
            "constant_rate", STEM, **{"optimizer.warmup_epochs": 100.0}
        ),
        lambda: check_fields(
            "constant_rate", STEM, **{"optimizer.warmup_epochs": 1.0}
        ),
    ),
    "no_batch_norm": (
        lambda: check_fields("no_batch_norm", naive.get_config()),
        # ImageNet's weights know none.
        lambda: check_fields("no_batch_norm", transfer.get_config()),
    ),
    "large_head": (
        lambda: check_fields("large_head", naive.get_config()),
        lambda: check_fields("large_head", seed_frozen.get_config()),
    ),
    "frozen_base": (
        lambda: check_fields("frozen_base", seed_frozen.get_config()),
        lambda: check_fields("frozen_base", transfer.get_config("gradual")),
    ),
    "frozen_base, larger images": (
        lambda: check_fields("frozen_base", transfer.get_config("frozen")),
        lambda: check_fields(
            "frozen_base",
            transfer.get_config("frozen"),
            **{"model.input_size": 64},
        ),
    ),
    "no_augmentation": (
        lambda: check_fields("no_augmentation", naive.get_config()),
        lambda: check_fields("no_augmentation", quickstart.get_config()),
    ),
    "over_augmentation": (
        lambda: check_fields("over_augmentation", STEM, epochs=5.0, **STRONG),
        lambda: check_fields("over_augmentation", stem32.get_config("200ep")),
    ),
    "over_augmentation of a run": (
        lambda: from_run.check_underfit(
            plain_accuracy=0.7, test_accuracy=0.7, heavy=["a", "b"]
        ),
        lambda: from_run.check_underfit(
            plain_accuracy=0.98, test_accuracy=0.96, heavy=["a", "b"]
        ),
    ),
    "short_run": (
        lambda: check_fields("short_run", STEM, steps=20),
        lambda: check_fields("short_run", STEM, epochs=2.0),
    ),
    "at_chance": (
        lambda: keras_model.check_at_chance({"raw": 9.0, "unit": 10.7}),
        lambda: keras_model.check_at_chance({"raw": 9.0, "unit": 60.0}),
    ),
    "replica_batch": (
        lambda: check_fields(
            "replica_batch", STEM, replicas=8, global_batch_size=64
        ),
        lambda: check_fields(
            "replica_batch",
            STEM,
            replicas=8,
            global_batch_size=64,
            **{"distribute.sync_batch_norm": True},
        ),
    ),
    "batch_norm_momentum": (
        lambda: check_fields(
            "batch_norm_momentum",
            STEM,
            epochs=5.0,
            **{"model.batch_norm_momentum": 0.99},
        ),
        lambda: check_fields(
            "batch_norm_momentum", STEM, **{"model.batch_norm_momentum": 0.99}
        ),
    ),
    "weight_decay, Keras' with SGD": (
        lambda: check_fields(
            "weight_decay", STEM, **{"optimizer.weight_decay": 5e-3}
        ),
        lambda: check_fields("weight_decay", stem32.get_config("8ep")),
    ),
    "weight_decay, SGD's with Adam": (
        lambda: check_fields(
            "weight_decay",
            naive.get_config(),
            **{"optimizer.weight_decay": 5e-4},
        ),
        lambda: check_fields(
            "weight_decay",
            naive.get_config(),
            **{"optimizer.weight_decay": 0.05},
        ),
    ),
    "labels, from 1": (
        lambda: from_data.check_labels(labels() + 1),
        lambda: from_data.check_labels(labels()),
    ),
    "labels, a column": (
        lambda: from_data.check_labels(labels()[:, None]),
        lambda: from_data.check_labels(labels().astype(np.uint8)),
    ),
    "labels, no whole numbers": (
        lambda: from_data.check_labels(labels().astype(np.float32)),
        lambda: from_data.check_labels(labels()),
    ),
    "balance": (
        lambda: from_data.check_balance(labels(200) * 0),
        # A random draw is not of one size either.
        lambda: from_data.check_balance(
            np.random.default_rng(0).integers(0, 10, 200)
        ),
    ),
    **{
        f"copies, {kind}": (
            lambda kind=kind: from_data.check_copies(*copies(kind)),
            lambda: from_data.check_copies(*copies("none")),
        )
        for kind in ("copies", "two labels", "in the test")
    },
    "shuffling": (
        lambda: from_data.check_shuffling(
            batches_in_order(np.sort(labels())), all_labels=labels()
        ),
        lambda: from_data.check_shuffling(
            batches_in_order(np.random.default_rng(0).permutation(labels())),
            all_labels=labels(),
        ),
    ),
    "preprocessing": (
        lambda: from_data.check_preprocessing(
            images(10), preprocessing="unit", pretrained=True
        ),
        lambda: from_data.check_preprocessing(
            images(10), preprocessing="caffe", pretrained=True
        ),
    ),
    "replica_augmentation": (
        lambda: probes.check_replica_augmentation(
            augment(by_replica=False, translate=4.0),
            images(32),
            by_image_only=False,
        ),
        lambda: probes.check_replica_augmentation(
            augment(by_replica=True, translate=4.0),
            images(32),
            by_image_only=False,
        ),
    ),
    "precision": (
        lambda: probes.check_precision(
            {"float16": 0.3, "float32": 0.1}, precision="float16", images=32
        ),
        lambda: probes.check_precision(
            {"bfloat16": 0.1, "float32": 0.1}, precision="bfloat16", images=32
        ),
    ),
    "loss_scaling": (
        lambda: probes.check_loss_scaling(precision="float16", scaled=False),
        lambda: probes.check_loss_scaling(precision="float16", scaled=True),
    ),
    "diverged": (
        lambda: from_run.check_diverged([line(5, math.nan, 0.1)], {}),
        lambda: from_run.check_diverged([line(5, 2.0, 0.1)], {"rollbacks": 0}),
    ),
    "train_test_gap": (
        lambda: from_run.check_gap(
            train_accuracy=0.99, test_accuracy=0.77, augmented=False
        ),
        lambda: from_run.check_gap(
            train_accuracy=0.93, test_accuracy=0.87, augmented=True
        ),
    ),
    "best_epoch": (
        lambda: from_run.check_best_epoch(TESTS, {"test_accuracy": 0.71}),
        lambda: from_run.check_best_epoch(TESTS, {"test_accuracy": 0.70}),
    ),
    "running_moments": (
        lambda: from_run.check_running_moments(
            by_batch=0.8, by_running=0.1, images=250
        ),
        lambda: from_run.check_running_moments(
            by_batch=0.8, by_running=0.79, images=250
        ),
    ),
}


def test_what_mends_is_told_for_the_runs_own_batch():
    diverged = check_learning([2.3, 9.0, math.nan], batch_norm=True)
    assert diverged.remedy == ("--config.optimizer.peak_learning_rate=0.04",)


@pytest.mark.parametrize("name", PLAIN)
def test_a_planted_fault_is_found_and_nothing_where_there_is_none(name):
    planted, sound = PLAIN[name]
    found = planted()
    assert found
    assert found.check == name.split(",")[0].split(" ")[0]
    # A number of this run.
    assert any(c.isdigit() for c in found.evidence)
    assert found.cost.source
    assert found.remedy
    assert sound() is None


def shipped():
    for variant in stem32._VARIANTS:
        yield f"stem32:{variant}", stem32.get_config(variant)
    for variant in ("gradual", "at_once", "uniform", "gradual128"):
        yield f"transfer:{variant}", transfer.get_config(variant)
    yield "upsample:64", upsample.get_config("64")
    yield "quickstart", quickstart.get_config()
    yield "smoke", smoke.get_config()


@pytest.mark.parametrize(
    ("name", "config"), shipped(), ids=lambda x: str(x)[:20]
)
def test_no_check_of_fields_finds_a_fault_in_a_shipped_config(name, config):
    synthetic_images = config.data.source == "synthetic"
    count = config.data.synthetic_train_images if synthetic_images else 50_000
    found = from_config.check_fields(
        config_lib.flatten(config),
        num_images=count,
        replicas=1,
        drawn=synthetic_images,
        learns=True,
    )
    assert {k: v for k, v in found.items() if v} == {}


def test_a_range_test_says_where_the_loss_falls_and_where_it_explodes():
    pairs = [(0.1, 2.3), (0.2, 2.0), (0.4, 1.0), (0.8, 0.5), (1.6, 60.0)]
    found = probes.read_range(pairs)
    assert found.best in (0.2, 0.4)
    assert found.breaks == 1.6
    assert probes.read_range([(0.1, 2.3), (0.2, math.nan)]).breaks == 0.2
    assert probes.read_range([(0.1, 2.3), (0.2, 2.3)]).best is None


def test_a_probe_stops_when_its_time_is_over_or_it_has_seen_enough():
    def slow(rate):
        while not stop:
            pass
        return 2.3

    stop = [1]
    assert len(probes.overfit(slow, rate=1, steps=40, seconds=0)) == 1
    losses = iter([2.3, 1.0, 0.01, 0.0])
    seen = probes.overfit(
        lambda rate: next(losses), rate=1, steps=4, seconds=60
    )
    assert seen == [2.3, 1.0, 0.01]
    assert probes.is_conclusive(seen)
    assert probes.is_conclusive(STAYS[:10])
    # Learns slowly, and was not given the time: nobody can tell.
    assert not probes.is_conclusive(SLOW[:20])


def test_findings_are_told_in_order_of_their_cost():
    found = [
        finding.Finding(name, name, "1", finding.Cost(points, "s"), ("m",))
        for name, points in (("small", 0.3), ("none", None), ("large", 60.0))
    ]
    report = finding.Report(
        finding.in_order(found), ["x"], {"y": "no time"}, {"z": "5"}, 3.0
    )
    assert [f.check for f in report.findings] == ["large", "small", "none"]
    text = finding.to_text(report)
    for said in ("3 findings", "60.0 points", "not measured by us", "no time"):
        assert said in text
    told = finding.to_json(report)
    assert [f["loss_points"] for f in told["findings"]] == [60.0, 0.3, None]
    json.dumps(told)


# With a model, of somebody else.


def small_model(*layers, input_shape=(32, 32, 3)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(input_shape), *layers])


def plain_layers(units=10, activation="softmax"):
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3, strides=4, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation),
    ]


def compiled(model, loss="sparse_categorical_crossentropy", **kwargs):
    options = {"optimizer": "sgd", "metrics": ["accuracy"], **kwargs}
    model.compile(loss=loss, **options)
    return model


def from_logits(value):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=value)


def by_hand(*, rescale):
    """Says how red an image is, on pixels from 0 to 1."""
    dense = keras.layers.Dense(10)
    layers = [keras.layers.GlobalAveragePooling2D(), dense]
    if rescale:
        layers.insert(0, keras.layers.Rescaling(1 / 255))
    model = small_model(*layers)
    # The class whose tenth of the range the red lies in.
    middle = (np.arange(10) + 0.5) / 10
    kernel = np.zeros((3, 10), np.float32)
    kernel[0] = 2 * middle * 1000
    dense.set_weights([kernel, (-1000 * middle**2).astype(np.float32)])
    return compiled(model, from_logits(True))


def normalized(*, trainable, momentum_done=True):
    norm = keras.layers.BatchNormalization(trainable=trainable)
    layers = plain_layers()
    layers.insert(1, norm)
    model = small_model(*layers)
    if momentum_done:
        norm.moving_mean.assign([0.5] * 3)
    return compiled(model)


def wrong_moments(*, shift):
    """Normalizes what `by_hand` looks at, with moments that may be off."""
    inner = by_hand(rescale=True)
    norm = keras.layers.BatchNormalization(scale=False, center=False)
    undo = keras.layers.Rescaling(0.2887, offset=0.5)
    model = small_model(inner.layers[0], norm, undo, *inner.layers[1:])
    norm.moving_mean.assign([0.5 + shift] * 3)
    norm.moving_variance.assign([0.0833] * 3)
    return compiled(model, from_logits(True))


def dead(*, bias):
    model = small_model(*plain_layers())
    convolution = model.layers[1]
    kernel, _ = convolution.get_weights()
    convolution.set_weights([kernel, np.full(4, bias, np.float32)])
    return compiled(model)


def frozen(*, trains):
    base = small_model(
        keras.layers.Conv2D(4, 3, strides=8, padding="same"),
        keras.layers.MaxPooling2D(4),
    )
    base.trainable = trains
    return compiled(
        small_model(
            keras.layers.Rescaling(1 / 255),
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(10, "softmax"),
        )
    )


def imagenet_first_filters(monkeypatch, *, known):
    """A model that is best on pixels from 0 to 1 and begins as VGG16 does."""
    model = by_hand(rescale=False)
    convolution = keras.layers.Conv2D(3, 1, use_bias=False)
    model = small_model(convolution, *model.layers)
    kernel = np.eye(3, dtype=np.float32)[None, None]
    convolution.set_weights([kernel])
    crc = keras_model.google_crc32c.value(kernel.tobytes()) if known else 0
    monkeypatch.setattr(keras_model, "_IMAGENET_KERNEL", f"{crc:08x}")
    return compiled(model, from_logits(True))


def half(*, whole):
    """Float16, by the model's policy or by one layer's alone."""
    mixed = keras.DTypePolicy("mixed_float16")
    if not whole:
        dense = keras.layers.Dense(10, "softmax", dtype=mixed)
        return compiled(small_model(*plain_layers()[:-1], dense))
    keras.config.set_dtype_policy(mixed)
    try:
        return compiled(small_model(*plain_layers()))
    finally:
        keras.config.set_dtype_policy("float32")


def decayed(value):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=value)
    return compiled(small_model(*plain_layers()), optimizer=optimizer)


def confident(scale):
    model = small_model(*plain_layers(activation=None))
    dense = model.layers[-1]
    dense.set_weights([w * scale for w in dense.get_weights()])
    return compiled(model, from_logits(True))


def logits(value):
    return compiled(small_model(*plain_layers(activation=None)), value)


# check -> models with the fault, and one without.
MODELS = {
    "from_logits": (
        lambda: compiled(small_model(*plain_layers()), from_logits(True)),
        lambda: compiled(small_model(*plain_layers()), from_logits(False)),
    ),
    "from_logits, none": (
        lambda: logits(from_logits(False)),
        lambda: logits(from_logits(True)),
    ),
    "inflated_accuracy": (
        lambda: compiled(
            small_model(*plain_layers(activation="sigmoid")),
            "binary_crossentropy",
        ),
        lambda: compiled(
            small_model(*plain_layers()), "categorical_crossentropy"
        ),
    ),
    "output_units": (
        lambda: compiled(small_model(*plain_layers(1000))),
        lambda: compiled(small_model(*plain_layers(10))),
    ),
    "input_scale": (
        lambda: by_hand(rescale=False),
        lambda: by_hand(rescale=True),
    ),
    "first_loss": (lambda: confident(1000.0), lambda: confident(1.0)),
    "weight_decay": (lambda: decayed(5e-4), lambda: decayed(5e-3)),
    "frozen_batch_norm": (
        lambda: normalized(trainable=False, momentum_done=False),
        lambda: normalized(trainable=False),
    ),
    "running_moments": (
        lambda: wrong_moments(shift=0.4),
        lambda: wrong_moments(shift=0.0),
    ),
    "dead_relus": (lambda: dead(bias=-99.0), lambda: dead(bias=0.0)),
    "frozen_base": (
        lambda: frozen(trains=False),
        lambda: frozen(trains=True),
    ),
    "loss_scaling": (lambda: half(whole=False), lambda: half(whole=True)),
}


@pytest.fixture(scope="module")
def red():
    """Images of all shades of red, labelled by them."""
    rng = np.random.default_rng(0)
    shades = np.arange(200) % 10
    pixels = rng.integers(0, 256, (200, 32, 32, 3)).astype(np.float32)
    pixels[..., 0] = (25.5 * (shades + 0.5))[:, None, None]
    return dataset.Split(pixels.astype(np.uint8), shades.astype(np.int32))


def saved(model, path):
    model.save(path)
    return keras_model.load(path)


def found_in(loaded, split):
    checks, facts = keras_model.check_model(loaded, split)
    return {name: found for name, found in checks.items() if found}, facts


@pytest.mark.parametrize("name", MODELS)
def test_a_fault_in_a_saved_model_is_found_and_nothing_in_a_sound_one(
    name, red, tmp_path
):
    planted, sound = MODELS[name]
    check = name.split(",")[0]
    found, _ = found_in(saved(planted(), tmp_path / "a.keras"), red)
    assert check in found
    found, _ = found_in(saved(sound(), tmp_path / "b.keras"), red)
    assert check not in found


def test_imagenets_filters_on_other_pixels_are_known(
    monkeypatch, red, tmp_path
):
    for known, wanted in ((True, "preprocessing"), (False, "input_scale")):
        model = imagenet_first_filters(monkeypatch, known=known)
        found, _ = found_in(saved(model, tmp_path / "a.keras"), red)
        assert list(found) == ["input_scale"]
        assert found["input_scale"].check == wanted


def test_a_sound_model_has_no_findings_at_all(red, tmp_path):
    found, facts = found_in(
        saved(by_hand(rescale=True), tmp_path / "a.keras"), red
    )
    assert found == {}
    assert "raw 100.0" in next(iter(facts.values()))


class Own(keras.layers.Layer):
    """A layer of the file's author."""

    def call(self, x):
        return x


def test_a_file_with_code_of_its_author_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    evil = keras.layers.Lambda(lambda x: x)
    for layer, said in ((evil, "Lambda"), (Own(), "Own")):
        small_model(layer, *plain_layers()).save(path)
        with pytest.raises(errors.DataError, match=said) as caught:
            keras_model.load(path)
        assert "\n" not in str(caught.value)


def test_a_loss_of_ones_own_is_no_reason_to_refuse_a_file(red, tmp_path):
    def my_loss(y, p):
        return keras.ops.mean(p)

    model = compiled(small_model(*plain_layers()), my_loss)
    found, _ = found_in(saved(model, tmp_path / "a.keras"), red)
    assert "from_logits" not in found


def test_what_is_no_keras_file_is_refused(tmp_path):
    good = tmp_path / "good.keras"
    compiled(small_model(*plain_layers())).save(good)
    content = good.read_bytes()
    cut, text = tmp_path / "cut.keras", tmp_path / "text.keras"
    cut.write_bytes(content[: len(content) // 2])
    text.write_text("no zip")
    more = tmp_path / "more.keras"
    more.write_bytes(content)
    with zipfile.ZipFile(more, "a") as archive:
        archive.writestr("../evil", "x")
    holed = tmp_path / "holed.keras"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(holed, "w") as new:
        for name in ("config.json", "metadata.json"):
            new.writestr(name, old.read(name))
        new.writestr("model.weights.h5", b"no HDF5")
    (tmp_path / "a.h5").write_bytes(b"x")
    for name, said in (
        ("none.keras", "no such file"),
        ("a.h5", "only .keras"),
        ("cut.keras", "no zip"),
        ("text.keras", "no zip"),
        ("more.keras", "evil"),
        ("holed.keras", "cannot be loaded"),
    ):
        with pytest.raises(errors.DataError, match=said):
            keras_model.load(tmp_path / name)
    small_model(keras.layers.Dense(10), input_shape=(7,)).save(good)
    with pytest.raises(errors.DataError, match="must be images"):
        keras_model.load(good)


# Whole configs and runs, an eighth of the width.


@pytest.fixture(scope="module")
def data():
    return synthetic.draw(320, 40)


@pytest.fixture
def diagnose(monkeypatch, data):
    """Diagnoses a config with changes; returns what was found, and the rest."""
    monkeypatch.setattr(train, "load_data", lambda config, poll=None: data)

    def call(config, place=None, **changes):
        config = config.copy_and_resolve_references().unlock()
        config.update_from_flattened_dict(changes)
        config_lib.check(config)
        report = run.diagnose(config, place, StopRequest(), seconds=600.0)
        return {found.check: found for found in report.findings}, report

    return call


NARROW = {"model.width": 0.125, "data.source": "synthetic"}


def test_the_naive_config_is_stuck_at_chance_first_of_all(diagnose):
    found, report = diagnose(
        naive.get_config(), **NARROW, **{"model.head_units": (512, 512)}
    )
    first = report.findings[0]
    # So narrow it may move a little.
    assert first.check in ("stuck_at_chance", "no_batch_norm")
    assert first.cost.points == 60.51
    assert len(found.keys() & {"stuck_at_chance", "no_batch_norm"}) == 1
    assert "overfit_one_batch" not in found
    assert {"constant_rate", "large_head", "no_augmentation"} <= found.keys()


def test_a_sound_config_has_no_findings_and_a_picture(diagnose, tmp_path):
    place = workdir.Workdir(str(tmp_path), tmp_path)
    found, report = diagnose(smoke.get_config(), place)
    assert found == {}
    assert "range_test" in report.passed
    assert not report.skipped
    assert (tmp_path / run.PICTURE).read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / run.FILE).read_text())
    assert told["findings"] == []


def test_a_rate_that_learns_nothing_is_told_from_a_network_that_cannot(
    diagnose,
):
    found, report = diagnose(
        smoke.get_config(), **{"optimizer.peak_learning_rate": 1e-5}
    )
    assert "too low" in found["range_test"].title, report.facts
    # Neither the network's fault nor said twice.
    assert found.keys() == {"range_test"}


def test_dead_units_are_counted_in_a_real_network():
    config = smoke.get_config()
    network = train.create_model(config, "float32", num_classes=10)
    relus = probes.relu_layers(network)
    assert len(relus) == 13

    def shares():
        return probes.dead_shares(
            lambda x: network(x, training=True), relus, images(8)
        )

    assert max(shares().values()) < 0.5
    layer = network.get_layer("block3_conv2_bn")
    layer.beta.assign(np.full(layer.beta.shape, -99.0))
    assert shares()["block3_conv2_relu"] == 1.0


def test_the_jobs_own_order_of_images_is_a_shuffled_one(data):
    sorted_split = data.train.take(np.argsort(data.train.labels))
    batches = pipeline.train_batches(
        sorted_split, seed=0, global_batch_size=32, first_step=0
    )
    order = [batch.label.numpy() for batch in batches.take(10)]
    assert (
        from_data.check_shuffling(order, all_labels=sorted_split.labels) is None
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run of 20 steps, over."""
    folder = tmp_path_factory.mktemp("run") / "a"
    config = smoke.get_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_data", lambda config, poll=None: data)
        train.train_and_evaluate(config, folder, StopRequest())
    return folder


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_is_read_and_left_as_it_is(diagnose, finished, monkeypatch):
    monkeypatch.setattr(run, "try_network", lambda *args, **kwargs: None)
    before = everything(finished)
    place = workdir.Workdir(str(finished), finished)
    config = config_lib.load(finished)
    _, report = diagnose(config, place)
    after = everything(finished)
    assert after.keys() - before.keys() == {run.FILE}
    assert before.items() <= after.items()
    for name in ("train_test_gap", "running_moments", "best_epoch"):
        assert name in {*report.passed, *(f.check for f in report.findings)}
    assert "step 10 of 10" in report.facts["newest checkpoint"]
    assert "last" in report.facts["accuracy"]


def test_nothing_is_written_for_a_bucket(diagnose, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "try_network", lambda *args, **kwargs: None)
    place = workdir.Workdir("gs://bucket/run", tmp_path, mirror=object())
    diagnose(smoke.get_config(), place)
    assert not everything(tmp_path)


def test_lines_that_say_too_little_are_left_out():
    good = line(1, 2.0, 0.1)
    assert from_run.whole_lines([{"step": 1, "split": "x"}, good]) == [good]


def test_a_damaged_checkpoint_is_left_where_it_is(
    diagnose, finished, tmp_path, monkeypatch
):
    folder = tmp_path / "copy"
    for name, content in everything(finished).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        damaged = name.startswith("checkpoints/") and "MANIFEST" not in name
        path.write_bytes(content[:-9] if damaged else content)
    before = everything(folder / "checkpoints")
    place = workdir.Workdir(str(folder), folder)
    monkeypatch.setattr(run, "try_network", lambda *args, **kwargs: None)
    (folder / "result.json").write_text("[]")
    _, report = diagnose(config_lib.load(folder), place)
    assert "no checkpoint can be read" in report.skipped["train_test_gap"]
    assert everything(folder / "checkpoints") == before


def test_absent_weights_end_a_config_and_not_a_run(diagnose, monkeypatch):
    with pytest.raises(errors.DataError):
        diagnose(
            transfer.get_config(), **{"model.weights": "/no/such/weights.h5"}
        )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "needs --config, --workdir or --keras_model"),
        (["--workdir=tests"], 2, "no config.json"),
        (["--keras_model=no.keras"], 3, "no such file"),
        (["--keras_model=no.keras", "--workdir=x"], 2, "leave --workdir out"),
    ],
)
def test_bad_input_ends_with_one_line(args, code, said):
    done = run_job("--mode=diagnose", *args)
    assert done.returncode == code, done.stderr
    (text,) = done.stderr.strip().splitlines()[-1:]
    assert said in text


def test_a_workdir_of_another_config_is_refused(finished):
    done = run_job(
        "--mode=diagnose",
        f"--workdir={finished}",
        "--config=configs/quickstart.py",
    )
    assert done.returncode == 2
    assert "holds a run of another config" in done.stderr


# A busy machine takes its time, four times as long at most.
@pytest.mark.timeout(900)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("naive", "stuck_at_chance"),
        ("seed_frozen", "frozen_base"),
        ("stem32", None),
    ],
)
def test_on_real_images_the_first_finding_is_the_right_one(
    name, first, cifar10_dir, tmp_path
):
    config = {"naive": naive, "seed_frozen": seed_frozen, "stem32": stem32}
    config = config[name].get_config()
    config.data.dir = str(cifar10_dir)
    if name == "seed_frozen":
        config.model.weights = str(from_environment("VGG16_WEIGHTS"))
    report = run.diagnose(config, None, StopRequest())
    assert [f.check for f in report.findings][:1] == ([first] if first else [])
