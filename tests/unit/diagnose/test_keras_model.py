"""Checks of .keras files: each finds its mistake, and nothing without it."""

import google_crc32c
import numpy as np
import pytest

from job.data import dataset
from job.diagnose import keras_file, keras_model
from tests.support import keras_models
from tests.support.findings import assert_finding
from tests.support.keras_models import compiled, crossentropy, plain


@pytest.fixture(scope="module")
def red():
    """Images in ten shades of red, labelled by them."""
    rng = np.random.default_rng(0)
    shades = np.arange(200) % 10
    pixels = rng.integers(0, 256, (200, 32, 32, 3)).astype(np.float32)
    pixels[..., 0] = (25.5 * (shades + 0.5))[:, None, None]
    return dataset.Split(pixels.astype(np.uint8), shades.astype(np.int32))


@pytest.fixture
def find(red, tmp_path):
    """Returns the findings in a model that was saved, by check, and facts."""

    def call(model, **kwargs):
        model.save(tmp_path / "a.keras")
        loaded = keras_file.load(tmp_path / "a.keras")
        checks, facts = keras_model.check_model(
            loaded, red, num_classes=10, **kwargs
        )
        return {name: found for name, found in checks.items() if found}, facts

    return call


def softmax_twice():
    return compiled(plain(), crossentropy(from_logits=True))


def softmax_once():
    return compiled(plain(), crossentropy(from_logits=False))


def no_softmax():
    return compiled(plain(activation=None), crossentropy(from_logits=False))


def softmax_in_the_loss():
    return compiled(plain(activation=None), crossentropy(from_logits=True))


def binary_accuracy():
    return compiled(plain(activation="sigmoid"), "binary_crossentropy")


def categorical_accuracy():
    return compiled(plain(), "categorical_crossentropy")


def thousand_units():
    return compiled(plain(1000))


def ten_units():
    return compiled(plain(10))


def unscaled_pixels():
    return keras_models.redness(rescale=False)


def scaled_pixels():
    return keras_models.redness(rescale=True)


def large_logits():
    return keras_models.confident(1000.0)


def usual_logits():
    return keras_models.confident(1.0)


def pytorch_decay():
    return keras_models.decayed(5e-4)


def keras_decay():
    return keras_models.decayed(5e-3)


def initial_frozen_norm():
    return keras_models.frozen_norm(initial=True)


def trained_frozen_norm():
    return keras_models.frozen_norm(initial=False)


def wrong_statistics():
    return keras_models.redness_by_statistics(shift=0.4)


def right_statistics():
    return keras_models.redness_by_statistics(shift=0.0)


def dead_convolution():
    return keras_models.biased(-99.0)


def live_convolution():
    return keras_models.biased(0.0)


def frozen_base():
    return keras_models.inner_base(trainable=False)


def trainable_base():
    return keras_models.inner_base(trainable=True)


@pytest.mark.parametrize(
    ("check", "faulty", "sound"),
    [
        ("from_logits", softmax_twice, softmax_once),
        ("from_logits", no_softmax, softmax_in_the_loss),
        ("inflated_accuracy", binary_accuracy, categorical_accuracy),
        ("output_units", thousand_units, ten_units),
        ("input_scale", unscaled_pixels, scaled_pixels),
        ("first_loss", large_logits, usual_logits),
        ("weight_decay", pytorch_decay, keras_decay),
        ("frozen_batch_norm", initial_frozen_norm, trained_frozen_norm),
        ("running_moments", wrong_statistics, right_statistics),
        ("dead_relus", dead_convolution, live_convolution),
        ("frozen_base", frozen_base, trainable_base),
        (
            "loss_scaling",
            keras_models.float16_layer,
            keras_models.float16_model,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_fault_is_found_and_sound_model_passes(check, faulty, sound, find):
    found, _ = find(faulty())
    assert_finding(found[check], check)
    found, _ = find(sound())
    assert check not in found


def test_sound_model_has_no_findings_at_all(find):
    found, facts = find(scaled_pixels())
    assert found == {}
    assert "raw 100.0" in next(iter(facts.values()))


def test_custom_loss_is_not_judged(find):
    def custom_loss(labels, outputs):
        return outputs[0, 0]

    found, _ = find(compiled(plain(), custom_loss))
    assert "from_logits" not in found


@pytest.mark.parametrize("known", [True, False])
def test_imagenets_kernel_on_pixels_of_another_scale_is_found(known, find):
    kernel = np.eye(3, dtype=np.float32)[None, None]
    crc = google_crc32c.value(kernel.tobytes()) if known else 0
    found, _ = find(
        keras_models.redness_by_filters(kernel), imagenet_kernel=f"{crc:08x}"
    )
    assert list(found) == ["input_scale"]
    assert_finding(
        found["input_scale"], "preprocessing" if known else "input_scale"
    )


def test_model_that_recognizes_nothing_is_at_chance():
    def check(best, num_classes):
        return keras_model.check_at_chance(
            {"raw": 9.0, "unit": best}, num_classes=num_classes
        )

    found = check(10.7, 10)
    assert_finding(found, "at_chance")
    assert found.cost.source == "guessing the ten classes gives 10 %"
    assert check(35.0, 10) is None
    found = check(35.0, 3)
    assert_finding(found, "at_chance")
    assert found.cost.source == "guessing the three classes gives 33 %"


def test_scale_that_recognizes_nothing_is_not_the_models_own():
    accuracies = {"raw": 20.0, "caffe": 20.0, "unit": 35.0}
    found = keras_model.check_input_scale(
        accuracies, imagenet=False, num_classes=10
    )
    assert_finding(found, "input_scale")
    assert not keras_model.check_input_scale(
        accuracies, imagenet=False, num_classes=3
    )


@pytest.mark.parametrize(
    ("num_classes", "count", "score"),
    [(10, "ten", "90.0"), (3, "three", "66.7")],
)
def test_inflated_accuracy_names_the_number_of_outputs(
    num_classes, count, score
):
    labels = np.arange(30) % num_classes
    found = keras_model.check_inflated_accuracy(
        np.zeros((30, num_classes), np.float32),
        labels,
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    assert found.title == f"the accuracy is a binary one, over {count} outputs"
    assert found.evidence.startswith(f"{score} by the metric")
    assert f"answering no to everything scores {score}" in found.evidence
