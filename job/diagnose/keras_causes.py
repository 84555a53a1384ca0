"""Causes of a low accuracy that trained copies of a Keras model show.

check_rate(builder, trial, accuracy)
explain_guessing(builder, trial, num_classes)
"""

import keras
import numpy as np

from job.diagnose import (
    from_data,
    keras_outputs,
    keras_recipe,
    layers,
    scoring,
)
from job.diagnose.finding import Finding, mistake
from job.diagnose.keras_recipe import Recipe
from job.diagnose.keras_trial import LEARNED, Trial
from job.diagnose.pixels import Reading
from job.diagnose.report_builder import ReportBuilder

# Accuracy in % from which a learning rate is not a mistake.
_GOOD = 90
# Accuracy in % that learning rates far outside of the usual range do not reach.
_LEARNED_MUCH = 50
# Ratio of two gains from which a learning rate is better. Two seeds of one
# learning rate differ by less if both learn.
_RATIO = 2.0
# Number of steps below which a low accuracy has no other cause, and number of
# steps of 32 images in an epoch of 50,000.
_FEW_STEPS, _EPOCH = 150, 1563
# Accuracy in % below which an epoch is too short. A linear classifier of the
# pixels reaches more on CIFAR-10.
_POOR = 30


def check_rate(
    builder: ReportBuilder, trial: Trial, accuracy: float | None
) -> None:
    """Compares the learning rate with its rule, and tries another one.

    Args:
      builder: Collector of the findings.
      trial: Model, and trainer of its copies.
      accuracy: Accuracy of the model in %. None if it guesses or without
        images.
    """
    model, recipe = trial.model, trial.recipe
    if not recipe.optimizer or layers.has_frozen_base(model):
        return
    normalized = layers.is_normalized(model)
    found = layers.find(model, keras.layers.Conv2D)
    trained = [layer for layer in found if layer.trainable_variables]
    bounds = keras_recipe.rate_bounds(
        recipe, convolutions=len(trained), normalized=normalized
    )
    if bounds is None:
        builder.skip(f"no rule for {recipe.optimizer}", "learning_rate")
        return
    near, far = bounds
    assert recipe.rate is not None
    if accuracy is not None or trial.test is None:
        builder.add("learning_rate", None)
    if near[0] <= recipe.rate <= near[1] or (accuracy or 0) > _GOOD:
        return
    is_far = not 0.99 * far[0] <= recipe.rate <= 1.01 * far[1]
    deep = not normalized and len(trained) >= 8
    better = keras_recipe.typical_rate(near, deep=deep)
    network = ""
    if deep:
        network = f" for {len(trained)} convolutions without normalization"
    seen = f"{near[0]:.2g} to {near[1]:.2g} is usual"
    if deep or not trial.is_possible:
        if not is_far:
            return
    elif accuracy is None:
        # An unusual learning rate at which one of two copies learns is wrong.
        own, other = trial.worst_gain(recipe.rate), trial.best_gain(better)
        is_better = other >= LEARNED and other > _RATIO * own
        # If the labels fit, a copy that fails at an unusual rate shows enough.
        fails = own < LEARNED and _fits_linearly(trial)
        if not (is_better or is_far or fails):
            return
        if fails and not is_better:
            seen += ". After 100 steps the loss of a new copy is"
            seen += f" {_describe(own)} at {recipe.rate:.2g}"
        if is_better:
            seen += (
                ". After 100 steps the loss of a new copy is"
                f" {_describe(other)} at {better:g}, and {_describe(own)} at"
                f" {recipe.rate:.2g}"
            )
    else:
        own, other = trial.accuracy(recipe.rate), trial.accuracy(better)
        # A learning rate far outside of the usual range may end a schedule.
        if other < own + 3 and (not is_far or accuracy > _LEARNED_MUCH):
            return
        if other > own:
            seen += (
                f". After 40 more steps the accuracy is {other:.1f}% at"
                f" {better:g} and {own:.1f}% at {recipe.rate:.2g}"
            )
    builder.add(
        "learning_rate",
        keras_recipe.learning_rate_finding(
            recipe, better, network=network, seen=seen, deep=deep
        ),
    )


def is_short(recipe: Recipe) -> bool:
    """Returns whether a model was trained for too few steps."""
    return recipe.steps is not None and recipe.steps < _FEW_STEPS


def check_length(
    recipe: Recipe, accuracy: float | None = None
) -> Finding | None:
    """Looks for a training that was too short for a conclusion.

    Args:
      recipe: Compiled recipe of the model.
      accuracy: Accuracy of the model in %. None if it guesses.
    """
    is_poor = accuracy is not None and accuracy < _POOR
    if not is_short(recipe) and not (
        is_poor and recipe.steps is not None and recipe.steps < _EPOCH
    ):
        return None
    return mistake(
        "underfit",
        f"{recipe.steps} training steps; 50,000 images in batches of 32 are"
        f" {_EPOCH:,} steps per epoch",
        title="The training was too short",
        fix="train for more epochs on all training images",
    )


def explain_guessing(
    builder: ReportBuilder, trial: Trial, num_classes: int
) -> None:
    """Looks for the cause of guessing if other checks found none.

    Args:
      builder: Collector of the findings.
      trial: Model, and trainer of its copies.
      num_classes: Number of classes.
    """
    model, recipe, test = trial.model, trial.recipe, trial.test
    assert test is not None
    if is_short(recipe):
        builder.add("underfit", check_length(recipe))
        return
    usual = keras_outputs.usual_reading(model)
    outputs = scoring.answers(model, test.images[:256], usual)
    only = keras_outputs.answers_one_class(scoring.classes_of(outputs))
    certain = float(np.median(outputs.max(axis=1))) > 0.5
    seen = "the answers vary and are correct only by chance"
    if only is not None:
        seen = f"nearly all of {len(outputs)} images are recognized as class"
        seen += f" {only}"
    name = "at_chance"
    gain = None
    if trial.is_possible:
        assert recipe.rate is not None
        gain = trial.best_gain(recipe.rate)
        seen += "; after 100 steps the loss of a new copy is"
        seen += f" {_describe(gain)}"
    if only == num_classes - 1 and certain:
        name = "not_shuffled"
        seen += "; this last class was that of the last training images"
    elif gain is not None and gain >= LEARNED:
        builder.add("learning_rate", None)
        twice = gain
        if usual.scale == "raw":
            twice = trial.gain(recipe.rate or 0.0, Reading("unit"))
        if twice < min(LEARNED, gain / 2):
            seen += f", and {_describe(twice)} on pixels divided by 255"
            builder.add("scaled_twice", mistake("scaled_twice", seen))
            return
        name = "shuffled_labels"
        seen += ", so network and learning rate can learn these images"
    elif gain is not None:
        rates = [(recipe.rate or 0.0) * factor for factor in (0.1, 0.01, 10.0)]
        for rate in rates:
            other = trial.gain(rate)
            if other >= LEARNED and other > _RATIO * gain:
                seen += f", and {_describe(other)} at {rate:.2g}"
                found = keras_recipe.learning_rate_finding(
                    recipe, rate, network="", seen=seen, deep=False
                )
                builder.add("learning_rate", found)
                return
        listed = ", ".join(f"{rate:.2g}" for rate in rates)
        seen += f", also at {listed}"
        assert trial.train is not None
        linear = from_data.fit_linearly(trial.train)
        if linear and not linear.is_above_guessing:
            name = "shuffled_labels"
            seen += f"; a linear classifier recognizes {linear}"
    builder.add(name, mistake(name, seen))


def _fits_linearly(trial: Trial) -> bool:
    """Returns whether a linear classifier learns the images of a trial."""
    assert trial.train is not None
    linear = from_data.fit_linearly(trial.train)
    return linear is not None and linear.is_above_guessing


def _describe(gain: float) -> str:
    """Describes the gain of a new copy; see `Trial.gain`."""
    below = "not" if gain < 0.005 else f"{gain:.2f}"
    return f"{below} below that of guessing"
