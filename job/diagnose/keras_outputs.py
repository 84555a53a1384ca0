"""Checks of a Keras model's answers for images with known labels.

reading = find_reading(model, split, num_classes=10)
check_class_order(classes, labels, num_classes=10)
"""

import dataclasses
from collections.abc import Callable, Iterable

import keras
import numpy as np
import numpy.typing as npt

from job.data.dataset import Split
from job.diagnose import costs, layers, scoring
from job.diagnose.finding import Finding, mistake
from job.diagnose.from_run import check_running_moments
from job.diagnose.pixels import LAYOUTS, SCALES, Reading, own_reading

_Array = npt.NDArray

# Minimum advantage of another reading, in points and in standard errors.
_BETTER, _ERRORS = 4.0, 3.0
# Points above guessing below which other layouts are tried on all scales.
_UNDERSTOOD = 15.0
# Points above guessing that a fitted class order does not reach by chance.
_KNOWN = 12.0
# Points above guessing from which a model has learned something.
_LEARNED = 6.0
# Gap between training and test accuracy from which a model has memorized its
# training images, in points.
_GAP = 15.0
# Number of images for batch statistics.
_STATISTICS_IMAGES = 192
# Python expression of each scale of `SCALES`, for RGB pixels x from 0 to 255.
_EXPRESSIONS = {
    "raw": "x",
    "unit": "x / 255",
    "symmetric": "x / 127.5 - 1",
    "standardize": "(x - mean) / std",
    "caffe": 'keras.applications.vgg16.preprocess_input(x.astype("float32"))',
    "twice": "x / 255 / 255",
}
# Fraction of the answers from which a class is the only one, and ratio to the
# mean probability below which a class is unknown to the model.
_ONE_CLASS, _UNKNOWN = 0.9, 0.1


def is_better(score: _Array, other: _Array, points: float = _BETTER) -> bool:
    """Returns whether predictions are better than others of the same images.

    Args:
      score: Whether each prediction is correct, bool [n].
      other: Whether each of the other predictions is correct, bool [n].
      points: Minimum difference in points.
    """
    gained = int(np.sum(score & ~other))
    lost = int(np.sum(other & ~score))
    margin = 100 * (gained - lost) / len(score)
    error = max(1.0, gained + lost) ** 0.5
    return margin >= points and gained - lost >= _ERRORS * error


def usual_reading(model: keras.Model) -> Reading:
    """Returns the usual reading of images for a model.

    Args:
      model: Image classifier.
    """
    scales = keras.layers.Rescaling | keras.layers.Normalization
    operations = layers.pixel_operations(model)
    # x * 2 - 1 is for pixels from 0 to 1.
    scales_raw = operations and operations != {"Multiply", "Subtract"}
    return Reading(
        "raw" if layers.find(model, scales) or scales_raw else "unit"
    )


def find_reading(
    model: keras.Model,
    split: Split,
    *,
    num_classes: int,
    poll: Callable[[], None] = lambda: None,
) -> Reading:
    """Returns the reading of the pixels with the highest accuracy.

    The order of the classes is fitted, because it may differ from the labels'.

    Args:
      model: Image classifier.
      split: Images with labels.
      num_classes: Number of classes.
      poll: Function that raises an exception if the process should stop.
    """
    images, labels = split.images, split.labels
    hits: dict[Reading, _Array] = {}

    def score(readings: Iterable[Reading]) -> Reading:
        for reading in readings:
            if reading not in hits:
                poll()
                outputs = scoring.answers(model, images, reading)
                classes = scoring.classes_of(outputs)
                if model.outputs[0].shape[-1] == num_classes:
                    order = scoring.best_order(classes, labels, num_classes)
                    classes = order[classes]
                hits[reading] = classes == labels
        return max(hits, key=lambda reading: hits[reading].mean())

    usual = usual_reading(model)
    best = score(own_reading(scale) for scale in SCALES)
    if not is_better(hits[best], hits[usual]):
        best = usual
    plain, readings = best, [best, usual]
    if 100 * hits[best].mean() < 100 / num_classes + _UNDERSTOOD:
        readings = [own_reading(scale) for scale in SCALES]
    best = score(
        changed
        for reading in readings
        for changed in (
            dataclasses.replace(reading, bgr=not reading.bgr),
            *(dataclasses.replace(reading, layout=name) for name in LAYOUTS),
        )
    )
    best = score([dataclasses.replace(best, bgr=not best.bgr)])
    if 100 * hits[best].mean() < 100 / num_classes + _KNOWN:
        return usual
    return best if is_better(hits[best], hits[plain]) else plain


def check_reading(
    reading: Reading, *, best: float, usual: float
) -> dict[str, Finding | None]:
    """Checks the channel order and the layout of a model's reading.

    Args:
      reading: Reading with the highest accuracy.
      best: Accuracy in that reading, in %.
      usual: Accuracy in the usual reading on the same scale, in %.
    """
    seen = f"the accuracy is {best:.1f}% on images as {reading}, and"
    seen += f" {usual:.1f}% as {own_reading(reading.scale)}"
    cost = costs.of_this_model(best - usual, "on usual images")
    found: dict[str, Finding | None] = {
        "channel_order": None,
        "pixel_layout": None,
    }
    if reading.layout:
        found["pixel_layout"] = mistake("pixel_layout", seen, cost=cost)
    elif reading.bgr != own_reading(reading.scale).bgr:
        order = "BGR" if reading.bgr else "RGB"
        found["channel_order"] = mistake(
            "channel_order",
            seen,
            title=f"The model was trained on {order} images",
            cost=cost,
            fix="call cv2.cvtColor(image, cv2.COLOR_BGR2RGB) after cv2.imread,"
            " in training and in use"
            if reading.bgr
            else "use keras.applications.vgg16.preprocess_input, then train"
            " again",
        )
    return found


def check_scaling(
    model: keras.Model, reading: Reading, *, imagenet: bool
) -> dict[str, Finding | None]:
    """Checks the scale of the pixels that a model was trained on.

    Args:
      model: Image classifier.
      reading: Reading with the highest accuracy.
      imagenet: Whether the model has ImageNet's filters.
    """
    rescales = [
        layer.scale
        for layer in layers.find(model, keras.layers.Rescaling)
        if np.max(np.abs(layer.scale)) < 0.1
    ]
    normalizes = bool(layers.find(model, keras.layers.Normalization))
    operations = layers.pixel_operations(model)
    scales_itself = rescales or normalizes or operations
    count = len(layers.flat_layers(model))
    findings: dict[str, Finding | None] = {
        "scaled_twice": None,
        "unscaled_pixels": None,
        "preprocessing": None,
    }
    if reading.scale == "twice" or (rescales and reading.scale != "raw"):
        findings["scaled_twice"] = mistake(
            "scaled_twice",
            f"the model expects pixels {SCALES[reading.scale][0]}, and"
            f" {len(rescales)} Rescaling layers divide them again",
        )
    elif (
        imagenet
        and reading.scale != "caffe"
        and not rescales
        and not normalizes
        # `preprocess_input` subtracts a mean and does not divide.
        and not operations & {"Add", "Subtract", "Lambda"}
    ):
        findings["preprocessing"] = mistake(
            "preprocessing",
            f"the model expects {reading}, but ImageNet's VGG16 was trained on"
            f" {own_reading('caffe')} (0 to 255 before that)",
            cost=costs.PREPROCESSING,
        )
    elif (
        reading.scale == "raw"
        and not scales_itself
        and not layers.is_normalized(model)
    ):
        findings["unscaled_pixels"] = mistake(
            "unscaled_pixels",
            "the model expects pixels from 0 to 255, and 0 of"
            f" {count} layers scale or normalize them",
        )
    return findings


def check_input_scale(
    reading: Reading, given: Reading, *, best: float, seen: float
) -> Finding | None:
    """Compares the user's reading of the pixels with the expected one.

    Args:
      reading: Reading with the highest accuracy.
      given: Reading of the user's images.
      best: Accuracy in the first reading, in %.
      seen: Accuracy in the user's reading, in %.
    """
    if best - seen < 5:
        return None
    return mistake(
        "input_scale",
        f"the accuracy is {seen:.1f}% on the given pixels, {given}, and"
        f" {best:.1f}% on {reading}",
        cost=costs.of_this_model(best - seen, "on these images"),
        fix=f"call model.predict({_EXPRESSIONS[reading.scale]}) and"
        " model.evaluate likewise, where x are pixels from 0 to 255, or make"
        " keras.layers.Rescaling the first layer and train again",
    )


def check_statistics(
    model: keras.Model, split: Split, reading: Reading
) -> Finding | None:
    """Compares the moving statistics of batch normalization with a batch's.

    Args:
      model: Image classifier with batch normalization, which is not changed.
      split: Images that were not used for training.
      reading: Reading of these images for the model.
    """
    split = split.take(np.arange(min(_STATISTICS_IMAGES, len(split))))
    images = scoring.prepare(model, split.images, reading)
    kept = model.get_weights()
    by_batch, by_running = (
        scoring.top_1(
            np.asarray(model(images, training=training), np.float32),
            split.labels,
        )
        for training in (True, False)
    )
    # A call in training mode updates the moving statistics.
    model.set_weights(kept)
    return check_running_moments(
        by_batch=by_batch / 100,
        by_running=by_running / 100,
        images=len(images),
    )


def check_class_order(
    classes: _Array, labels: _Array, *, num_classes: int
) -> Finding | None:
    """Looks for classes in another order than the labels.

    The order is fitted on half of the images and scored on the other half.

    Args:
      classes: Predicted classes, int [n].
      labels: Labels, int [n].
      num_classes: Number of classes.
    """
    order = scoring.best_order(classes[::2], labels[::2], num_classes)
    classes, labels = classes[1::2], labels[1::2]
    ordered, plain = order[classes] == labels, classes == labels
    known = 100 * ordered.mean() >= 100 / num_classes + _KNOWN
    if not known or not is_better(ordered, plain, points=_LEARNED):
        return None
    shifts = {int(each) for each in (order - np.arange(num_classes))}
    shift = {each % num_classes for each in shifts}
    how, fix = "in another order", "use the same order of classes for training"
    fix += " and test labels, for example class_names=[...]"
    if len(shift) == 1:
        step = (-shift.pop()) % num_classes
        step -= num_classes if step > num_classes // 2 else 0
        how = f"shifted by {step:+d}"
        fix = f"set labels = labels - {step}, so that they are 0 to"
        fix += f" {num_classes - 1}, and train again"
        fix = fix.replace("- -", "+ ")
    points = 100 * float(ordered.mean() - plain.mean())
    return mistake(
        "class_order",
        f"the accuracy on {len(labels)} images is {100 * plain.mean():.1f}%,"
        f" and {100 * ordered.mean():.1f}% with the classes {how}",
        title=f"The classes of the model are {how}",
        cost=costs.of_this_model(points, "with the fitted order"),
        fix=fix,
    )


def check_memorized(
    *, train: float, test: float, head: float
) -> Finding | None:
    """Looks for a model that has memorized its training images.

    Args:
      train: Accuracy on training images, in %.
      test: Accuracy on other images, in %.
      head: Fraction of the weights in dense layers, 0 to 1.
    """
    if train - test < _GAP:
        return None
    return mistake(
        "memorized",
        f"the accuracy is {train:.1f}% on training images and {test:.1f}% on"
        f" others; {head:.0%} of the weights are in dense layers",
    )


def check_missing_classes(outputs: _Array, labels: _Array) -> Finding | None:
    """Looks for classes that were not among the training images.

    Args:
      outputs: Outputs of the model, float32 [n, k].
      labels: Labels, int [n].
    """
    if not scoring.are_probabilities(outputs):
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = shifted / shifted.sum(axis=1, keepdims=True)
    present = np.unique(labels)
    shares = outputs.mean(axis=0)[present] * len(present)
    missing = present[shares < _UNKNOWN]
    if len(missing) < 2 or len(missing) > len(present) - 2:
        return None
    return mistake(
        "missing_classes",
        f"classes {', '.join(str(each) for each in missing)} get at most"
        f" {shares[shares < _UNKNOWN].max() / len(present):.1%} of the"
        f" probability, where the mean is {1 / len(present):.0%}",
        title=f"{len(missing)} classes were not among the training images",
        cost=costs.of_this_model(
            100 * float(np.isin(labels, missing).mean()),
            "by the number of images with these labels",
        ),
    )


def answers_one_class(classes: _Array) -> int | None:
    """Returns the only class that a model predicts, or None.

    Args:
      classes: Predicted classes, int [n].
    """
    values, counts = np.unique(classes, return_counts=True)
    if counts.max() < _ONE_CLASS * len(classes):
        return None
    return int(values[counts.argmax()])


def has_learned(accuracy: float, num_classes: int) -> bool:
    """Returns whether an accuracy in % is above that of guessing.

    Args:
      accuracy: Accuracy in %.
      num_classes: Number of classes.
    """
    return accuracy >= 100 / num_classes + _LEARNED
