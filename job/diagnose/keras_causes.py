"""Causes of a low accuracy that trained copies of a Keras model show.

check_rate(builder, trial, accuracy)
explain_guessing(builder, trial, num_classes)
"""

import keras
import numpy as np

from job.diagnose import (
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
# Number of steps below which a low accuracy has no other cause.
_FEW_STEPS = 150


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
        own, other = trial.loss(recipe.rate), trial.loss(better)
        if (other < LEARNED or own >= other) and not is_far:
            return
        if other > own:
            seen += (
                f". In 100 steps of a new copy the loss falls by {other:.2f} at"
                f" {better:g} and by {own:.2f} at {recipe.rate:.2g}"
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


def check_length(recipe: Recipe) -> Finding | None:
    """Looks for a training that was too short for a conclusion.

    Args:
      recipe: Compiled recipe of the model.
    """
    if not is_short(recipe):
        return None
    return mistake(
        "underfit",
        f"{recipe.steps} training steps; 50,000 images in batches of 32 are"
        " 1,563 steps per epoch",
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
        seen = f"nearly all of {len(outputs)} images get class {only}"
    name = "at_chance"
    falls = None
    if trial.is_possible:
        assert recipe.rate is not None
        falls = trial.loss(recipe.rate)
        seen += f"; a new copy's loss falls by {falls:.2f} in 100 steps"
    if only == num_classes - 1 and certain:
        name = "not_shuffled"
        seen += "; this last class was that of the last training images"
    elif falls is not None and falls >= LEARNED:
        twice = 1.0
        if usual.scale == "raw":
            twice = trial.loss(recipe.rate or 0.0, Reading("unit"))
        if twice < min(LEARNED, falls / 2):
            seen += f", or by {twice:.2f} if its pixels are divided by 255"
            builder.add("scaled_twice", mistake("scaled_twice", seen))
            return
        name = "shuffled_labels"
        seen += ", so network and learning rate can learn these images"
    elif falls is not None:
        for factor in (0.1, 0.01, 10.0):
            rate = (recipe.rate or 0.0) * factor
            if trial.loss(rate) >= LEARNED:
                seen += f", and at {rate:.2g} by more than {LEARNED}"
                found = keras_recipe.learning_rate_finding(
                    recipe, rate, network="", seen=seen, deep=False
                )
                builder.add("learning_rate", found)
                return
    builder.add(name, mistake(name, seen))
