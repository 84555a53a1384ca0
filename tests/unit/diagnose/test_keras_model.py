"""Tests of the checks of Keras models."""

import functools
import random

import keras
import numpy as np
import pytest

from job.data import dataset
from job.diagnose import (
    diagnose_model,
    keras_layers,
    keras_model,
    keras_outputs,
    keras_recipe,
)
from job.diagnose.keras_trial import LEARNED, Trial
from job.diagnose.pixels import Reading
from job.diagnose.report_builder import ReportBuilder
from tests.support import keras_models
from tests.support.findings import assert_finding
from tests.support.keras_models import compiled, crossentropy, plain
from tests.support.planted_models import tutorial


@pytest.fixture(scope="module")
def red():
    """Returns images in ten shades of red, labeled by shade."""
    return shades_of_red(200)


@pytest.fixture(scope="module")
def many():
    """Returns as many of these images as a linear classifier needs."""
    return shades_of_red(640)


def shades_of_red(count):
    rng = np.random.default_rng(0)
    shades = np.arange(count) % 10
    pixels = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.float32)
    pixels[..., 0] = (25.5 * (shades + 0.5))[:, None, None]
    return dataset.Split(pixels.astype(np.uint8), shades.astype(np.int32))


@pytest.fixture
def find(red):
    """Returns the findings in a model, by check."""

    def call(model, **kwargs):
        builder = ReportBuilder(lambda: None, seconds=60.0)
        if getattr(model, "optimizer", None):
            model.optimizer.iterations.assign(100)
        keras_model.check_model(
            builder, model, red, None, num_classes=10, **kwargs
        )
        return {found.check: found for found in builder.report().findings}

    return call


def redness(*, rescale=True, kernel=None):
    """Returns a sound model of the images, and variants of it."""
    model = keras_models.redness(rescale=rescale)
    if kernel is not None:
        weights, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([weights[kernel], bias])
    return model


def shifted():
    """Returns the sound model with classes that are one too high."""
    model = redness()
    weights, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.roll(weights, 1, 1), np.roll(bias, 1)])
    return model


def hidden(activation):
    return compiled(tutorial(hidden=activation))


def test_sound_model_has_no_findings(find):
    assert find(redness()) == {}


def test_scale_of_the_pixels_is_a_fact_instead_of_a_finding(find):
    assert find(redness(rescale=False)) == {}


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        pytest.param("class_order", shifted, id="class_order"),
        pytest.param(
            "channel_order",
            functools.partial(redness, kernel=[2, 1, 0]),
            id="channel_order",
        ),
        pytest.param(
            "running_moments",
            functools.partial(
                keras_models.redness_by_statistics, variance=400.0
            ),
            id="running_moments",
        ),
    ],
)
def test_answers_of_a_model_show_its_mistake(check, faulty, find):
    found = find(faulty())
    assert_finding(found[check], check)


def test_right_statistics_pass(find):
    assert find(keras_models.redness_by_statistics(variance=1.0)) == {}


@pytest.mark.parametrize("known", [True, False])
def test_imagenets_kernel_on_pixels_of_another_scale_is_found(
    known, find, monkeypatch
):
    kernel = np.eye(3, dtype=np.float32)[None, None]
    model = keras_models.redness_by_filters(kernel)
    monkeypatch.setattr(
        keras_layers, "has_imagenet_weights", lambda *args: known
    )
    assert ("preprocessing" in find(model)) == known


@pytest.mark.parametrize(
    ("check", "faulty", "sound"),
    [
        pytest.param(
            "output_units",
            lambda: compiled(plain(1000)),
            lambda: compiled(plain(10)),
            id="output_units",
        ),
        pytest.param(
            "loss",
            lambda: compiled(
                plain(activation="sigmoid"), "binary_crossentropy"
            ),
            lambda: compiled(plain(), "categorical_crossentropy"),
            id="loss",
        ),
        pytest.param(
            "from_logits",
            lambda: compiled(plain(), crossentropy(from_logits=True)),
            lambda: compiled(plain(), crossentropy(from_logits=False)),
            id="from_logits-twice",
        ),
        pytest.param(
            "from_logits",
            lambda: compiled(plain(activation=None)),
            lambda: compiled(
                plain(activation=None), crossentropy(from_logits=True)
            ),
            id="from_logits-none",
        ),
        pytest.param(
            "output_activation",
            lambda: compiled(plain(activation="relu")),
            lambda: compiled(plain()),
            id="output_activation",
        ),
        pytest.param(
            "weight_decay",
            lambda: keras_models.decayed(5e-4),
            lambda: keras_models.decayed(5e-3),
            id="weight_decay",
        ),
        pytest.param(
            "frozen_batch_norm",
            lambda: keras_models.frozen_norm(initial=True),
            lambda: keras_models.frozen_norm(initial=False),
            id="frozen_batch_norm",
        ),
        pytest.param(
            "frozen_base",
            lambda: keras_models.inner_base(trainable=False),
            lambda: keras_models.inner_base(trainable=True),
            id="frozen_base",
        ),
        pytest.param(
            "activation",
            lambda: hidden(None),
            lambda: hidden("relu"),
            id="activation-none",
        ),
        pytest.param(
            "activation",
            lambda: hidden("sigmoid"),
            lambda: hidden("elu"),
            id="activation-saturating",
        ),
        pytest.param(
            "initial_weights",
            lambda: compiled(tutorial(kernel_initializer="zeros")),
            lambda: compiled(tutorial()),
            id="initial_weights",
        ),
    ],
)
def test_description_of_a_model_shows_its_mistake(check, faulty, sound):
    def description(model):
        builder = ReportBuilder(lambda: None, seconds=60.0)
        if model.compiled:
            model.optimizer.iterations.assign(100)
        keras_recipe.check_description(
            builder,
            model,
            keras_recipe.read_recipe(model),
            num_classes=10,
            imagenet=False,
        )
        if check == "from_logits":
            outputs = model(np.ones((2, 32, 32, 3), np.float32)).numpy()
            recipe = keras_recipe.read_recipe(model)
            return keras_recipe.check_from_logits(recipe, outputs)
        report = builder.report()
        return next((f for f in report.findings if f.check == check), None)

    assert_finding(description(faulty()), check)
    assert description(sound()) is None


def test_untrained_model_and_nan_end_the_diagnosis(find):
    model = compiled(plain())
    builder = ReportBuilder(lambda: None, seconds=60.0)
    images = np.zeros((20, 32, 32, 3), np.uint8)
    split = dataset.Split(images, np.arange(20, dtype=np.int32) % 10)
    keras_model.check_model(builder, model, split, None, num_classes=10)
    (found,) = builder.report().findings
    assert_finding(found, "not_trained")
    dense = model.layers[-1]
    dense.set_weights([weight * np.nan for weight in dense.get_weights()])
    assert next(iter(find(model))) == "diverged"


def test_weights_that_were_loaded_count_as_trained():
    model = compiled(plain())
    assert_finding(keras_layers.check_trained(model, 0), "not_trained")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + 0.1])
    assert keras_layers.check_trained(model, 0) is None


def test_an_activation_may_be_a_layer():
    leaky = keras.layers.LeakyReLU(0.1)
    assert keras_layers.check_activations(tutorial(hidden=leaky)) is None


def test_a_binary_classifier_may_have_one_output():
    def check(classes, loss):
        return keras_recipe.check_output_units(
            1, num_classes=classes, loss=loss
        )

    assert check(2, "binary_crossentropy") is None
    assert_finding(check(2, "mean_squared_error"), "output_units")
    assert_finding(check(10, "binary_crossentropy"), "output_units")


def test_few_steps_explain_a_low_accuracy(red):
    builder = ReportBuilder(lambda: None, seconds=60.0)
    model = compiled(tutorial(), optimizer="adam")
    model.optimizer.iterations.assign(20)
    keras_model.check_model(builder, model, red, None, num_classes=10)
    (found,) = builder.report().findings
    assert_finding(found, "underfit")


def test_dropout_penalty_and_augmentation_can_be_too_strong():
    def check(model, accuracy=20.0):
        return keras_layers.check_regularization(model, train_accuracy=accuracy)

    strong = keras.regularizers.L2(0.1)
    rotation = (keras.layers.RandomRotation(0.5),)
    for faulty in (
        tutorial(dropout=0.95),
        tutorial(kernel_regularizer=strong),
        tutorial(first=rotation),
    ):
        assert_finding(check(faulty), "regularization")
        assert check(faulty, 95.0) is None
    assert check(tutorial(dropout=0.5)) is None


def test_memorized_images_are_found():
    found = keras_outputs.check_memorized(train=95.0, test=50.0, head=0.9)
    assert_finding(found, "memorized")
    assert not keras_outputs.check_memorized(train=60.0, test=50.0, head=0.9)


def test_classes_without_training_images_are_found():
    labels = np.arange(100) % 10
    outputs = np.full((100, 10), 0.2, np.float32)
    assert not keras_outputs.check_missing_classes(outputs / 2, labels)
    outputs[:, 5:] = 1e-6
    found = keras_outputs.check_missing_classes(outputs, labels)
    assert_finding(found, "missing_classes")
    assert "classes 5, 6, 7, 8, 9" in found.evidence


def test_scaling_inside_and_outside_of_the_model_is_found():
    def check(model, scale):
        found = keras_outputs.check_scaling(
            model, Reading(scale), imagenet=False
        )
        return [name for name, each in found.items() if each]

    assert check(tutorial(scale=True), "raw") == []
    assert check(tutorial(scale=True), "unit") == ["scaled_twice"]
    assert check(tutorial(), "unit") == []
    assert check(tutorial(), "raw") == ["unscaled_pixels"]
    # Operations are not among the layers of a model.
    inputs = keras.Input((32, 32, 3))
    caffe = keras.applications.vgg16.preprocess_input(inputs)
    for pixels in (inputs / 255, caffe, keras.layers.Rescaling(1.0)(caffe)):
        model = keras.Model(inputs, tutorial()(pixels))
        assert check(model, "raw") == []
    flipped = keras.Model(inputs, tutorial()(inputs[..., ::-1]))
    assert check(flipped, "raw") == ["unscaled_pixels"]


@pytest.mark.parametrize(
    ("prepare", "is_found"),
    [
        (lambda x: x / 255, True),
        (keras.applications.vgg16.preprocess_input, False),
    ],
)
def test_an_imagenet_base_expects_a_subtracted_mean(prepare, is_found):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, tutorial()(prepare(inputs)))
    found = keras_outputs.check_scaling(model, Reading("raw"), imagenet=True)
    assert bool(found["preprocessing"]) == is_found


def test_the_usual_pixels_follow_from_the_operations():
    inputs = keras.Input((32, 32, 3))
    for pixels, scale in (
        (inputs, "unit"),
        (inputs / 255, "raw"),
        (inputs / 127.5 - 1, "raw"),
        (inputs * 2 - 1, "unit"),
    ):
        model = keras.Model(inputs, tutorial()(pixels))
        assert keras_outputs.usual_reading(model) == Reading(scale)


def bounds(optimizer, convolutions, *, normalized=False):
    model = compiled(plain(), optimizer=optimizer)
    return keras_recipe.rate_bounds(
        keras_recipe.read_recipe(model),
        convolutions=convolutions,
        normalized=normalized,
    )


def test_usual_rates_depend_on_the_network_and_the_momentum():
    adam = keras.optimizers.Adam(1e-3)
    (_, highest), _ = bounds(adam, 3)
    assert highest > 1e-3
    (_, highest), _ = bounds(adam, 13)
    assert highest < 1e-3
    (_, highest), _ = bounds(adam, 13, normalized=True)
    assert highest > 1e-3
    (plain_low, _), _ = bounds(keras.optimizers.SGD(0.1), 3)
    (low, _), _ = bounds(keras.optimizers.SGD(0.1, momentum=0.9), 3)
    assert low == pytest.approx(plain_low / 10)
    assert bounds(keras.optimizers.Ftrl(), 3) is None


def test_rate_of_a_schedule_is_its_highest_so_far():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model = compiled(plain(), optimizer=keras.optimizers.SGD(schedule))
    model.optimizer.iterations.assign(100)
    recipe = keras_recipe.read_recipe(model)
    assert recipe.rate == pytest.approx(0.1)
    assert recipe.steps == 100


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule of a user, which Keras cannot serialize."""

    def __call__(self, step):
        return 0.1 * 0.5 ** (step / 10)


def test_rate_of_a_schedule_of_the_user_is_read():
    model = compiled(plain(), optimizer=keras.optimizers.SGD(Halving()))
    schedule = model.optimizer.learning_rate
    recipe = keras_recipe.read_recipe(model)
    assert recipe.rate == pytest.approx(0.1)
    assert float(model.optimizer.learning_rate) == float(schedule)
    config = keras_recipe.optimizer_config(model.optimizer)
    assert "learning_rate" not in config
    assert config["momentum"] == 0.0


class Listed(Halving):
    """Schedule of a user, which raises an exception after its last step."""

    def __call__(self, step):
        return [0.1, 0.2][int(step)]


def test_an_unknown_rate_is_described(find):
    model = compiled(plain(), optimizer=keras.optimizers.SGD(Listed()))
    model.optimizer.iterations.assign(2)
    recipe = keras_recipe.read_recipe(model)
    assert recipe.rate is None
    assert str(recipe) == "sgd at an unknown rate"
    assert find(model)


def test_weight_decay_at_the_lower_bound_passes():
    def check(decay):
        return keras_recipe.check_decoupled_decay(
            keras_recipe.Recipe("SGD", 0.1, momentum=0.9, weight_decay=decay)
        )

    assert check(1e-3) is None
    assert_finding(check(5e-4), "weight_decay")


def test_arrays_are_diagnosed_in_memory_without_changing_the_model(red):
    model = redness(rescale=False)
    model.optimizer.iterations.assign(100)
    before = model.get_weights()
    report = diagnose_model(model, red.images, red.labels + 1)
    found = {each.check: each for each in report.findings}
    # The model needs pixels from 0 to 1, and the labels begin at 1.
    assert found.keys() == {"input_scale", "labels"}
    assert "Finding 1" in str(report)
    after = model.get_weights()
    assert all(map(np.array_equal, before, after))
    report = diagnose_model(model, red.images / 255, red.labels)
    assert not report.findings


def test_model_that_does_not_classify_images_is_refused(red):
    vector = keras_models.sequential(keras.layers.Dense(10), input_shape=(7,))
    with pytest.raises(ValueError, match="a model of images"):
        diagnose_model(vector, red.images, red.labels)


def test_metric_that_is_too_high_is_found():
    found = keras_recipe.check_metric(
        {"accuracy": 40.0, "binary_accuracy": 90.0}, accuracy=40.0, images=100
    )
    assert_finding(found, "metric")
    assert not keras_recipe.check_metric(
        {"accuracy": 40.0}, accuracy=40.0, images=100
    )


def shuffled(split):
    """Returns the labels of a split in another order than its images."""
    return np.random.default_rng(1).permutation(split.labels)


def guessing():
    """Returns a network that guesses, as if it had trained for 200 steps."""
    model = compiled(plain(), optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.iterations.assign(200)
    return model


def test_shuffled_training_labels_are_found_without_a_trial(many, capsys):
    def report():
        return diagnose_model(
            guessing(),
            many.images,
            many.labels,
            train=(many.images, shuffled(many)),
        )

    first, second = report(), report()
    assert [found.check for found in first.findings] == ["shuffled_labels"]
    assert first.findings == second.findings
    assert "Training a copy" not in capsys.readouterr().err


def test_shuffled_labels_of_both_sets_are_no_learning_rate(many):
    report = diagnose_model(guessing(), many.images, shuffled(many))
    assert [found.check for found in report.findings] == ["shuffled_labels"]
    assert "learning_rate" not in report.passed


def trial_of(split):
    model = guessing()
    recipe = keras_recipe.read_recipe(model)
    return Trial(model, recipe, split, None, Reading("raw"))


def test_only_labels_that_fit_are_learned(many):
    # The models are built first, because that draws random numbers.
    first, second = trial_of(many), trial_of(many)
    before = random.getstate()
    gain = first.gain(1e-3)
    assert gain >= LEARNED
    assert second.gain(1e-3) == gain
    assert random.getstate() == before
    pairs = dataset.Split(many.images, shuffled(many))
    # At the highest learning rates the loss begins with a spike, and falls.
    assert all(trial_of(pairs).gain(rate) < LEARNED for rate in (1e-3, 1.0))


@pytest.mark.parametrize(
    ("images", "labels", "train", "message"),
    [
        pytest.param(200, 100, None, "200 images, but 100 labels", id="test"),
        pytest.param(200, 200, (200, 100), "200 training images", id="train"),
        pytest.param(200, 200, (32, 0), "not a pair|labels", id="none"),
    ],
)
def test_other_numbers_of_images_and_labels_are_refused(
    images, labels, train, message, red
):
    if train:
        train = red.images[: train[0]], red.labels[: train[1]]
    with pytest.raises(ValueError, match=message):
        diagnose_model(
            guessing(), red.images[:images], red.labels[:labels], train=train
        )


def test_training_images_have_the_size_of_the_test_images(red):
    train = (red.images[:, ::2, ::2], red.labels)
    with pytest.raises(ValueError, match=r"16, 16, 3.*32 x 32"):
        diagnose_model(guessing(), red.images, red.labels, train=train)


def test_training_labels_are_checked(red):
    model = redness()
    model.optimizer.iterations.assign(100)
    train = (red.images, red.labels + 1)
    (found,) = diagnose_model(
        model, red.images, red.labels, train=train
    ).findings
    assert_finding(found, "labels")
    assert found.evidence.startswith("training labels: ")


def test_path_instead_of_a_model_is_refused(red):
    with pytest.raises(ValueError, match="load_model"):
        diagnose_model("model.keras", red.images, red.labels)


def test_accuracy_on_the_given_pixels_comes_first(red):
    model = redness(rescale=False)
    model.optimizer.iterations.assign(100)
    report = diagnose_model(model, red.images, red.labels)
    assert "200 test images are recognized as given, and" in report.summary
    assert "x / 255" in report.findings[0].fix
    assert "memorized" in report.skipped


def test_images_of_another_size_are_a_fact(red):
    model = redness()
    model.optimizer.iterations.assign(100)
    larger = red.images.repeat(2, axis=1).repeat(2, axis=2)
    report = diagnose_model(model, larger, red.labels)
    assert "64 x 64" in report.facts["size"]


def test_fix_of_a_learning_rate_is_python():
    model = compiled(plain(), optimizer=keras.optimizers.SGD(9.0, momentum=0.9))
    recipe = keras_recipe.read_recipe(model)
    found = keras_recipe.learning_rate_finding(
        recipe, 0.01, network="", seen="", deep=False
    )
    assert "keras.optimizers.SGD(0.01, momentum=0.9)" in found.fix
