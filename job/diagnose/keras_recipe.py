"""Checks of a compiled Keras model's loss, outputs and learning rate.

    recipe = read_recipe(model)
    recipe.rate, recipe.steps               # 0.001, 625
    check_loss(recipe, activation="sigmoid", units=10)

The recipe comes from the compiled model, not from the text of its file.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from job.diagnose import costs, keras_layers, layers, scoring
from job.diagnose.finding import Finding, mistake
from job.diagnose.report_builder import ReportBuilder

# Two ranges of the learning rate in published recipes, by optimizer. Those of
# SGD are for 1 / (1 - momentum) times the learning rate. Outside of the first
# range a learning rate is probed, and outside of the second one it is wrong.
_RATES = {
    "adam": ((3e-4, 1.5e-3), (1e-4, 3e-3)),
    "rmsprop": ((1e-4, 1.5e-3), (3e-5, 3e-3)),
    "adamax": ((1e-3, 5e-3), (3e-4, 1e-2)),
    "adagrad": ((1e-2, 0.1), (3e-3, 0.3)),
    "adadelta": ((0.5, 2.0), (0.1, 3.0)),
    "lion": ((3e-5, 3e-4), (1e-5, 5e-4)),
    "sgd": ((0.05, 0.3), (5e-3, 0.5)),
}
_SAME_AS = {"adamw": "adam", "nadam": "adam"}
# SGD with batch normalization permits higher learning rates.
_SGD_NORMALIZED = ((0.1, 2.0), (0.01, 5.0))
# Number of convolutions without normalization from which a network is deep, and
# the highest learning rates at which it trains (docs/results.md, naive_rates:
# Adam trains at 3e-4 but not at 1e-3, SGD at 0.02 with momentum 0.9).
_DEEP = 8
_DEEP_RATES = {"adam": (1e-5, 3.1e-4), "sgd": (0.01, 0.3)}

# Smallest coupled weight decay of published recipes for VGG16.
_LEAST_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Recipe with which a model was compiled and trained.

    Attributes:
      optimizer: Class name of the optimizer. Empty if not compiled.
      rate: Highest learning rate so far. None if unknown.
      momentum: Momentum of SGD, 0 for other optimizers.
      weight_decay: Decoupled weight decay of the optimizer, or 0.
      steps: Number of training steps. None if unknown.
      loss: Name of the loss in snake case. Empty if unknown.
      from_logits: Whether the loss expects logits.
    """

    optimizer: str = ""
    rate: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int | None = None
    loss: str = ""
    from_logits: bool = False

    @property
    def is_one_hot(self) -> bool:
        """Returns whether the loss takes one value per class."""
        return "sparse" not in self.loss

    def __str__(self) -> str:
        """Returns the optimizer and its learning rate as text."""
        momentum = f", momentum {self.momentum:g}" if self.momentum else ""
        rate = "an unknown rate" if self.rate is None else f"{self.rate:.3g}"
        return f"{self.optimizer.lower()} at {rate}{momentum}"


def read_recipe(model: keras.Model) -> Recipe:
    """Returns the recipe of a model, empty if the model is not compiled.

    Args:
      model: Keras model.
    """
    if not model.compiled or model.optimizer is None:
        return Recipe()
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    config = optimizer_config(optimizer)
    steps = int(optimizer.iterations.numpy())
    loss, from_logits = _describe_loss(model.loss)
    return Recipe(
        optimizer=type(optimizer).__name__,
        rate=_highest_rate(optimizer, steps),
        momentum=float(config.get("momentum") or 0.0)
        if isinstance(optimizer, keras.optimizers.SGD)
        else 0.0,
        weight_decay=float(config.get("weight_decay") or 0.0),
        steps=steps,
        loss=loss,
        from_logits=from_logits,
    )


def optimizer_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns the config of an optimizer without its learning rate.

    Keras cannot serialize a schedule that is a function, or whose class is not
    registered.
    """
    attributes = vars(optimizer)
    rate = attributes["_learning_rate"]
    attributes["_learning_rate"] = None
    try:
        config = optimizer.get_config()
    finally:
        attributes["_learning_rate"] = rate
    config.pop("learning_rate", None)
    return config


def _highest_rate(
    optimizer: keras.optimizers.Optimizer, steps: int
) -> float | None:
    """Returns the highest learning rate so far, or None if unknown."""
    schedule = vars(optimizer)["_learning_rate"]
    try:
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            return max(float(schedule(t)) for t in np.linspace(0, steps, 50))
        return float(optimizer.learning_rate)
    except Exception:  # A schedule of the user may raise any exception.
        return None


def _describe_loss(loss: Any) -> tuple[str, bool]:
    """Returns the name of a loss of Keras and whether it expects logits."""
    if isinstance(loss, list | tuple) and len(loss) == 1:
        loss = loss[0]
    try:
        if isinstance(loss, str):
            loss = keras.losses.get(loss)
        config = loss.get_config() if hasattr(loss, "get_config") else {}
        name = type(loss).__name__ if config else loss.__name__
        found = getattr(keras.losses, name, None)
    except (ValueError, TypeError, AttributeError):
        return "", False
    if found is None:  # The loss is not one of Keras.
        return "", False
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return words.lstrip("_"), bool(config.get("from_logits"))


def check_output_units(
    units: int, *, num_classes: int, loss: str = ""
) -> Finding | None:
    """Compares the number of outputs with the number of classes.

    Args:
      units: Number of outputs.
      num_classes: Number of classes.
      loss: Name of the loss in snake case. Empty if unknown.
    """
    if units == num_classes:
        return None
    if units == 1 and num_classes == 2 and "binary" in loss:
        return None
    what = f"{units} outputs"
    if units == 1:
        what = "1 output as a regression of the class index"
    return mistake(
        "output_units",
        f"{what} for {num_classes} classes",
        fix=f'use keras.layers.Dense({num_classes}, activation="softmax") as'
        " the last layer, with sparse_categorical_crossentropy",
    )


def check_loss(
    recipe: Recipe, *, activation: str, units: int
) -> Finding | None:
    """Looks for a loss that is not for one class of several.

    Args:
      recipe: Compiled recipe of the model.
      activation: Activation of the last layer.
      units: Number of outputs.
    """
    if units < 2 or not recipe.loss:
        return None
    categorical = "categorical" in recipe.loss or "divergence" in recipe.loss
    if categorical and activation != "sigmoid":
        return None
    seen = f"{recipe.loss} over {units} {activation or 'linear'} outputs"
    why = "the loss treats the outputs as independent, with 9 of 10 targets 0"
    if categorical:
        why = "the outputs do not sum to 1"
    elif "binary" not in recipe.loss:
        why = "the gradient vanishes for confident mistakes of a softmax"
    loss = "categorical_crossentropy"
    if not recipe.is_one_hot:
        loss = f"sparse_{loss}"
    return mistake(
        "loss",
        f"{seen}; {why}",
        fix=f'use keras.layers.Dense({units}, activation="softmax") as the last'
        f' layer and loss="{loss}" in model.compile',
    )


def check_from_logits(recipe: Recipe, outputs: npt.NDArray) -> Finding | None:
    """Looks for two softmax functions before the loss, or none.

    Args:
      recipe: Compiled recipe of the model.
      outputs: Outputs of the model, float32 [n, k].
    """
    if "categorical" not in recipe.loss:
        return None
    sums = outputs.sum(axis=1)
    probabilities = scoring.are_probabilities(outputs)
    if probabilities != recipe.from_logits:
        return None
    return mistake(
        "from_logits",
        f"the outputs of an image sum to {sums.min():.2f} to {sums.max():.2f},"
        f" and {recipe.loss} has from_logits={recipe.from_logits}",
        title="Softmax twice" if probabilities else "No softmax",
        fix="set from_logits=False, because the last layer has a softmax"
        if probabilities
        else "set from_logits=True, because the last layer lacks a softmax",
    )


def check_metric(
    claimed: dict[str, float], *, accuracy: float, images: int
) -> Finding | None:
    """Looks for an accuracy metric that is too high.

    Args:
      claimed: Value in % of each accuracy metric of the model.
      accuracy: Accuracy on the same images, in %.
      images: Number of images.
    """
    if not claimed:
        return None
    name = max(claimed, key=lambda key: claimed[key])
    points = claimed[name] - accuracy
    if points < 10:
        return None
    return mistake(
        "metric",
        f"{name} is {claimed[name]:.1f}% on {images} images, on which the"
        f" accuracy is {accuracy:.1f}%",
        cost=costs.METRIC,
    )


def rate_bounds(
    recipe: Recipe, *, convolutions: int, normalized: bool
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Returns the usual learning rates of an optimizer.

    Args:
      recipe: Compiled recipe of the model.
      convolutions: Number of trained convolutions.
      normalized: Whether the network has normalization layers.

    Returns:
      Range outside of which the learning rate is probed, and range outside of
      which it is wrong, or None for an optimizer without a rule.
    """
    name = recipe.optimizer.lower()
    name = _SAME_AS.get(name, name)
    if name not in _RATES or recipe.rate is None:
        return None
    near, far = _RATES[name]
    if name == "sgd" and normalized:
        near, far = _SGD_NORMALIZED
    if not normalized and convolutions >= _DEEP:
        group = "sgd" if name == "sgd" else "adam"
        near = far = _DEEP_RATES[group]
    gain = 1 - recipe.momentum
    return (near[0] * gain, near[1] * gain), (far[0] * gain, far[1] * gain)


def typical_rate(bounds: tuple[float, float], *, deep: bool) -> float:
    """Returns a learning rate in the middle of its bounds, to one digit.

    Args:
      bounds: Lowest and highest usual learning rate.
      deep: Whether the network is deep without normalization. If so, a third of
        the highest learning rate, which also suits pretrained weights.
    """
    middle = bounds[1] / 3 if deep else (bounds[0] * bounds[1]) ** 0.5
    return float(f"{middle:.0e}")


def learning_rate_finding(
    recipe: Recipe, better: float, *, network: str, seen: str, deep: bool
) -> Finding:
    """Returns the finding of a learning rate that is too high or too low.

    Args:
      recipe: Compiled recipe of the model.
      better: Learning rate to use.
      network: Description of the network, for the title.
      seen: Evidence from a probe or the rule.
      deep: Whether the network is deep without normalization.
    """
    assert recipe.rate is not None
    high = recipe.rate > better
    title = f"The learning rate is too {'high' if high else 'low'}{network}"
    momentum = f", momentum={recipe.momentum:g}" if recipe.momentum else ""
    fix = (
        f"call model.compile(keras.optimizers.{recipe.optimizer}({better:g}"
        f"{momentum}), ...) on a newly built model"
    )
    if deep:
        fix += ", or BatchNormalization after each convolution"
    cost = costs.DEEP_RATE if deep and high else costs.RATE_OF_MODEL
    return mistake(
        "learning_rate", f"{recipe}; {seen}", title=title, cost=cost, fix=fix
    )


def check_decoupled_decay(recipe: Recipe) -> Finding | None:
    """Looks for Keras' weight decay in the convention of PyTorch.

    The weight decay of Keras is decoupled from gradient and momentum. With
    momentum m it equals (1 - m) times as much in PyTorch's SGD.

    Args:
      recipe: Compiled recipe of the model.
    """
    coupled = recipe.weight_decay * (1 - recipe.momentum)
    # 1e-3 * (1 - 0.9) is below 1e-4 by rounding.
    if not recipe.momentum or not 0 < coupled < 0.99 * _LEAST_DECAY:
        return None
    better = recipe.weight_decay / (1 - recipe.momentum)
    return mistake(
        "weight_decay",
        f"weight_decay={recipe.weight_decay:g} with momentum"
        f" {recipe.momentum:g} has the effect of {coupled:.1g} in PyTorch;"
        " recipes for VGG16 have 1e-4 to 1e-3",
        fix=f"set weight_decay={better:.2g}",
    )


def check_description(
    builder: ReportBuilder,
    model: keras.Model,
    recipe: Recipe,
    *,
    num_classes: int,
    imagenet: bool,
) -> None:
    """Checks the parts of a model that need no images.

    Args:
      builder: Collector of the findings.
      model: Image classifier.
      recipe: Compiled recipe of the model.
      num_classes: Number of classes.
      imagenet: Whether the model has ImageNet's filters.
    """
    units = int(model.outputs[0].shape[-1])
    activation = layers.output_activation(model)
    for name, check in keras_layers.CHECKS.items():
        builder.add(name, check(model))
    builder.add("not_trained", keras_layers.check_trained(model, recipe.steps))
    builder.add(
        "output_units",
        check_output_units(units, num_classes=num_classes, loss=recipe.loss),
    )
    builder.add(
        "frozen_base", keras_layers.check_frozen_base(model, imagenet=imagenet)
    )
    builder.add(
        "output_activation", keras_layers.check_output_activation(activation)
    )
    if not recipe.optimizer:
        builder.skip(
            "the model is not compiled with a Keras loss and optimizer",
            *("loss", "from_logits", "learning_rate", "weight_decay"),
        )
        return
    builder.facts["training"] = (
        f"{recipe}, {recipe.steps or 0:,} steps, loss"
        f" {recipe.loss or 'unknown'}"
    )
    builder.add(
        "loss",
        check_loss(recipe, activation=activation, units=units),
    )
    builder.add("weight_decay", check_decoupled_decay(recipe))
