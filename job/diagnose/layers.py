"""Layers of a Keras model and their outputs.

    fractions = dead_fractions(model, relu_layers(model), images)
    max(fractions, key=lambda one: one[1])      # ("block1_conv1_relu", 0.02)

Layers of nested models count as layers of the model.
"""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Class names of Keras' operations that may scale pixels.
_ARITHMETIC = ("Add", "Divide", "Multiply", "Subtract", "TrueDivide")


def flat_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers of a model and of its nested models, once each."""
    found: list[keras.Layer] = []
    for layer in model.layers:
        inner = flat_layers(layer) if hasattr(layer, "layers") else [layer]
        found.extend(layer for layer in inner if layer not in found)
    return found


def relu_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers that end in ReLU."""
    relu = (keras.activations.relu, tf.nn.relu)
    return [
        layer
        for layer in flat_layers(model)
        if isinstance(layer, keras.layers.ReLU)
        or getattr(layer, "activation", None) in relu
    ]


def find(model: keras.Model, kind: type | types.UnionType) -> list[Any]:
    """Returns the layers of given classes, in the order of the model."""
    return [layer for layer in flat_layers(model) if isinstance(layer, kind)]


def pixel_operations(model: keras.Model) -> set[str]:
    """Returns the names of the operations before the first weights of a model.

    Such operations, as in `inputs / 255` and `preprocess_input(inputs)`, are
    not among the layers of a model. Only arithmetic and Lambda layers count.
    """
    found: set[str] = set()
    for operation in getattr(model, "operations", model.layers):
        is_layer = isinstance(operation, keras.Layer)
        if hasattr(operation, "layers"):
            found |= pixel_operations(operation)
        elif isinstance(operation, keras.layers.Lambda) or (
            not is_layer and type(operation).__name__ in _ARITHMETIC
        ):
            found.add(type(operation).__name__)
        if is_layer and operation.weights:
            break
    return found


@contextlib.contextmanager
def outputs_of(
    layers: Sequence[keras.Layer],
) -> Iterator[dict[keras.Layer, Any]]:
    """Records the outputs of layers.

    Args:
      layers: Layers of a model or of its nested models, which may have equal
        names.
    """
    kept: dict[keras.Layer, Any] = {}

    def record(layer: keras.Layer, call: Callable) -> Callable:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            kept[layer] = call(*args, **kwargs)
            return kept[layer]

        return recorded

    for layer in layers:
        layer.call = record(layer, layer.call)
    try:
        yield kept
    finally:
        for layer in layers:
            del layer.call  # The method of the class remains.


def dead_fractions(
    model: Callable[[Any], Any], layers: Sequence[keras.Layer], images: Any
) -> list[tuple[str, float]]:
    """Returns the fraction of units of each layer that are 0 for all images.

    Args:
      model: Function of the images that calls the layers.
      layers: Layers that end in ReLU.
      images: Batch of images, as the model takes it.

    Returns:
      Name and fraction, 0 to 1, of each layer.
    """
    fractions = []
    with outputs_of(layers) as outputs:
        model(images)
    for layer, output in outputs.items():
        units = np.asarray(output, np.float32).reshape(-1, output.shape[-1])
        dead = float((units.max(axis=0) <= 0).mean())
        fractions.append((layer.name, dead))
    return fractions


def has_frozen_base(model: keras.Model) -> bool:
    """Returns whether a model has convolutions, all of which are frozen."""
    found = find(model, keras.layers.Conv2D)
    return bool(found) and not any(layer.trainable_variables for layer in found)


def multiply_adds(model: keras.Model) -> int:
    """Returns the number of multiplications of a forward pass of one image.

    Only convolutions and dense layers are counted. A size that the model does
    not fix counts as 32 pixels.
    """
    count = 0
    for layer in find(model, keras.layers.Conv2D | keras.layers.Dense):
        places = layer.output.shape[1:-1]
        size = int(np.prod([each or 32 for each in places]))
        count += size * int(np.prod(layer.kernel.shape))
    return count


def output_activation(model: keras.Model) -> str:
    """Returns the name of the activation at the end of a model, or ""."""
    last = flat_layers(model)[-1]
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    if isinstance(last, keras.layers.ReLU):
        return "relu"
    return getattr(getattr(last, "activation", None), "__name__", "")


def head_fraction(model: keras.Model) -> float:
    """Returns the fraction of a model's weights in dense layers, 0 to 1."""
    layers = find(model, keras.layers.Dense)
    dense = sum(layer.count_params() for layer in layers)
    return dense / max(1, model.count_params())


def is_normalized(model: keras.Model) -> bool:
    """Returns whether a model normalizes its feature maps."""
    return any(
        "Normalization" in type(layer).__name__
        and not isinstance(layer, keras.layers.Normalization)
        for layer in flat_layers(model)
    )
