"""Diagnosis of a Keras model, by all checks.

    print(diagnose(model, x_test, y_test, train=(x_train, y_train)))

The model, its optimizer and its metrics are not changed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from job.data.dataset import Split
from job.diagnose import (
    from_data,
    keras_file,
    keras_layers,
    keras_outputs,
    keras_recipe,
    layers,
    pixels,
    probes,
    scoring,
)
from job.diagnose.finding import Finding, Report
from job.diagnose.keras_causes import (
    check_length,
    check_rate,
    explain_guessing,
)
from job.diagnose.keras_trial import Trial
from job.diagnose.pixels import Reading
from job.diagnose.report_builder import ReportBuilder

_Array = npt.NDArray

# Maximum multiplications of a forward pass over a sample, and its maximum size.
_WORK, _FEWEST, _MOST = 4e10, 96, 600
# Accuracy in % below which a short training is a mistake.
_LOW = 50
# Number of training images of a trial.
_TRIAL_IMAGES = 3200
# Number of images for the activity of layers.
_BATCH = 64


def diagnose(
    model: keras.Model,
    x: _Array,
    y: _Array,
    *,
    train: tuple[_Array, _Array] | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Report:
    """Looks for known mistakes in a model and in its images and labels.

    Args:
      model: Image classifier, compiled or not.
      x: Images that were not used for training, as the model takes them, [n, h,
        w, 3].
      y: Labels of these images, integers [n] or [n, 1], or one-hot [n, k].
      train: Images and labels that were used for training. If None, memorized
        images are not detected.
      poll: Function that raises an exception if the process should stop.

    Returns:
      Report, which is printed as text.

    Raises:
      ValueError: The model is not a classifier of images, or the arrays are
        not images and labels.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"the model is a {type(model).__name__}, not a Keras model. Fix:"
            " pass keras.models.load_model(path)"
        )
    builder = ReportBuilder(poll, seconds=60.0)
    if problem := keras_file.shape_problem(model):
        raise ValueError(f"the model {problem}")
    recipe = keras_recipe.read_recipe(model)
    one_hot = recipe.is_one_hot if "categorical" in recipe.loss else None
    units = int(model.outputs[0].shape[-1])
    test, given, known = from_data.read_pairs(
        x, y, one_hot_loss=one_hot, num_outputs=units
    )
    builder.add("labels", known.finding)
    num_classes = known.num_classes
    builder.add(
        "balance",
        from_data.check_balance(known.labels, num_classes=num_classes),
    )
    trained = None
    if train is not None:
        trained, known = from_data.read_training(
            train,
            one_hot_loss=one_hot,
            num_outputs=units,
            size=test.images.shape[1:3],
        )
        builder.add("labels", known.finding)
        num_classes = max(num_classes, known.num_classes)
    check_model(
        builder, model, test, trained, num_classes=num_classes, given=given
    )
    return builder.report()


def check_model(
    builder: ReportBuilder,
    model: keras.Model,
    test: Split | None,
    train: Split | None,
    *,
    num_classes: int,
    given: Reading | None = None,
) -> None:
    """Runs all checks of a model.

    Args:
      builder: Collector of the findings.
      model: Image classifier.
      test: RGB images, 0 to 255, that were not used for training. If None, only
        the description and the weights are checked.
      train: Images that were used for training. If None, unknown.
      num_classes: Number of classes.
      given: Reading of the user's images. If None, unknown.
    """
    recipe = keras_recipe.read_recipe(model)
    imagenet = keras_layers.has_imagenet_weights(model)
    keras_recipe.check_description(
        builder, model, recipe, num_classes=num_classes, imagenet=imagenet
    )
    if test is None:
        check_rate(builder, Trial(model, recipe), None)
        builder.summary = "Only the layers, the weights and the recipe were"
        builder.summary += " checked."
        builder.skip(
            "no images. Fix: set DATA=DIR, or --images and --labels", "accuracy"
        )
    elif not (builder.found("diverged") or builder.found("not_trained")):
        count = _count(model)
        rng = np.random.default_rng(0)
        test = test.take(rng.permutation(len(test))[:_TRIAL_IMAGES])
        if train:
            found = from_data.check_pairs(test, train)
            builder.add("shuffled_labels", found)
        size, taken = test.images.shape[1:3], scoring.input_size(model)
        if size != taken:
            builder.facts["size"] = (
                f"the model takes {taken[0]} x {taken[1]} pixels, to which the"
                f" images of {size[0]} x {size[1]} were resized"
            )
        # Copies of the model do not learn from labels that do not fit.
        known = train or test
        first = None
        if not builder.found("shuffled_labels"):
            rows = rng.permutation(len(known))[:_TRIAL_IMAGES]
            first = known.take(rows)
        test = test.take(np.arange(min(count, len(test))))
        sample = known.take(np.arange(min(count, len(known))))
        shown = test
        if train:
            shown = Split(
                np.concatenate([test.images[::2], sample.images[::2]]),
                np.concatenate([test.labels[::2], sample.labels[::2]]),
            )
        reading = keras_outputs.find_reading(
            model,
            shown,
            num_classes=num_classes,
            poll=builder.poll,
        )
        trial = Trial(model, recipe, first, test, reading)
        accuracy = check_answers(
            builder,
            trial,
            test,
            sample if train else None,
            num_classes=num_classes,
            imagenet=imagenet,
            given=given,
        )
        if accuracy is None:
            usual = keras_outputs.usual_reading(model)
            trial = dataclasses.replace(trial, reading=usual)
        check_rate(builder, trial, accuracy)
        if builder.has_findings():
            return
        if accuracy is None:
            explain_guessing(builder, trial, num_classes)
        elif accuracy < _LOW:
            builder.add("underfit", check_length(recipe, accuracy))


def _count(model: keras.Model) -> int:
    """Returns the size of a sample, by the cost of the model."""
    count = int(_WORK / max(1, layers.multiply_adds(model)))
    return min(_MOST, max(_FEWEST, count))


def check_answers(
    builder: ReportBuilder,
    trial: Trial,
    test: Split,
    train: Split | None,
    *,
    num_classes: int,
    imagenet: bool,
    given: Reading | None,
) -> float | None:
    """Checks the model's answers on test and training images.

    Args:
      builder: Collector of the findings.
      trial: Model with its recipe and the reading of its images.
      test: Images that were not used for training.
      train: Images that were used for training. If None, unknown.
      num_classes: Number of classes.
      imagenet: Whether the first filters are those of ImageNet's VGG16.
      given: Reading of the user's images. If None, unknown.

    Returns:
      Accuracy on the test images in %, or None if the model guesses.
    """
    model, recipe, reading = trial.model, trial.recipe, trial.reading
    outputs = scoring.answers(model, test.images, reading)
    order = np.arange(max(num_classes, outputs.shape[1]))
    if outputs.shape[1] == num_classes:
        classes = scoring.classes_of(outputs)
        found = keras_outputs.check_class_order(
            classes, test.labels, num_classes=num_classes
        )
        builder.add("class_order", found)
        if found:
            order = scoring.best_order(classes, test.labels, num_classes)
        builder.add(
            "from_logits", keras_recipe.check_from_logits(recipe, outputs)
        )

    def accuracy(split: Split, way: Reading = reading) -> float:
        builder.poll()
        outputs = scoring.answers(model, split.images, way)
        classes = scoring.classes_of(outputs)
        classes = np.clip(classes, 0, len(order) - 1)
        return 100 * float((order[classes] == split.labels).mean())

    score = accuracy(test)
    train_score = accuracy(train) if train else None
    _summarize(builder, trial, score, train_score, given=given)
    findings = {
        "regularization": keras_layers.check_regularization(
            model, train_accuracy=score if train_score is None else train_score
        )
    }
    if layers.find(model, keras.layers.BatchNormalization):
        found = keras_outputs.check_statistics(model, test, reading)
        builder.add("running_moments", found)
    learned = keras_outputs.has_learned(
        max(score, train_score or 0), num_classes
    )
    if learned:
        builder.facts["pixels"] = f"the model expects {reading}"
        usual = pixels.own_reading(reading.scale)
        findings |= keras_outputs.check_reading(
            reading,
            best=score,
            usual=score if usual == reading else accuracy(test, usual),
        )
        findings |= keras_outputs.check_scaling(
            model, reading, imagenet=imagenet
        )
        if given and given.scale != reading.scale:
            findings["input_scale"] = keras_outputs.check_input_scale(
                reading, given, best=score, seen=accuracy(test, given)
            )
        if train_score is not None:
            findings["memorized"] = keras_outputs.check_memorized(
                train=train_score, test=score, head=layers.head_fraction(model)
            )
        if outputs.shape[1] == num_classes:
            findings["missing_classes"] = keras_outputs.check_missing_classes(
                outputs[:, np.argsort(order)], test.labels
            )
        check_activity(builder, trial, test, order)
    for name, found in findings.items():
        builder.add(name, found)
    return score if learned else None


def _summarize(
    builder: ReportBuilder,
    trial: Trial,
    test: float,
    train: float | None,
    *,
    given: Reading | None,
) -> None:
    """Writes the sentence on the accuracy, and skips checks without it.

    Args:
      builder: Collector of the findings.
      trial: Model with the reading and the number of its test images.
      test: Accuracy on test images in %, with the best order of the classes.
      train: Accuracy on training images in %. If None, unknown.
      given: Reading of the user's images. If None, unknown.
    """
    assert trial.test is not None
    if train is None:
        builder.skip(
            "no training images. Fix: call diagnose_model(model, x, y,"
            " train=(x_train, y_train))",
            "memorized",
        )
    outputs = scoring.answers(
        trial.model, trial.test.images, given or trial.reading
    )
    seen = scoring.top_1(outputs, trial.test.labels)
    text = f"The accuracy is {test:.1f}% on {len(trial.test):,} test images"
    if abs(test - seen) >= 1:
        text = f"{seen:.1f}% of {len(trial.test):,} test images are recognized"
        text += f" as given, and {test:.1f}% as {trial.reading}"
        if builder.found("class_order"):
            text += " with the classes in another order"
    if train is not None:
        text += f", and {train:.1f}% on training images"
    if trial.recipe.steps:
        text += f", after {trial.recipe.steps:,} steps"
    builder.summary = f"{text}."


def check_activity(
    builder: ReportBuilder, trial: Trial, test: Split, order: _Array
) -> None:
    """Checks the dead units and the metrics of a model.

    Args:
      builder: Collector of the findings.
      trial: Model with its recipe and the reading of its images.
      test: Images that were not used for training.
      order: Label of each class of the model.
    """
    model = trial.model
    images = scoring.prepare(model, test.images[:_BATCH], trial.reading)
    fractions = layers.dead_fractions(
        lambda batch: model(batch, training=False),
        layers.relu_layers(model),
        images,
    )
    builder.add("dead_relus", probes.check_dead_relus(fractions, len(images)))
    if trial.recipe.loss:
        builder.add("metric", _check_metrics(trial, test, order))


def _check_metrics(trial: Trial, test: Split, order: _Array) -> Finding | None:
    """Compares the model's own accuracy metrics with its answers."""
    model, one_hot = trial.model, trial.recipe.is_one_hot
    units = int(model.outputs[0].shape[-1])
    images = scoring.prepare(model, test.images[:256], trial.reading)
    # These are the labels in the model's order of classes.
    labels = np.argsort(order)[test.labels[: len(images)]]
    targets = scoring.targets(labels, units=units, one_hot=one_hot)
    try:
        values: dict[str, Any] = model.evaluate(
            images, targets, verbose=0, return_dict=True
        )
    except Exception:  # A custom metric may raise any exception.
        return None
    claimed = {
        name: 100 * float(value)
        for name, value in values.items()
        if "acc" in name
    }
    outputs = scoring.outputs_of(model, images)
    return keras_recipe.check_metric(
        claimed, accuracy=scoring.top_1(outputs, labels), images=len(images)
    )
