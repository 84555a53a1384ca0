"""Checks of a Keras model's layers and weights, without images.

check_finite(model)
check_frozen_base(model, imagenet=True)
"""

from collections.abc import Callable

import google_crc32c
import keras
import numpy as np

from job.diagnose import costs, layers
from job.diagnose.finding import Finding, mistake

# crc32c of the kernel of block1_conv1 in keras.applications' VGG16, float32
# [3, 3, 3, 64], by which ImageNet's weights are recognized.
IMAGENET_KERNEL = "f73a1cfd"

# Number of saturating hidden layers from which gradients vanish.
_MANY_SATURATING = 3
# Strengths from which regularization prevents learning.
_STRONG_DROPOUT, _STRONG_PENALTY = 0.75, 0.01
_STRONG_AUGMENTATION = {
    "RandomRotation": 0.2,
    "RandomTranslation": 0.4,
    "RandomZoom": 0.5,
    "RandomContrast": 0.8,
    "RandomBrightness": 0.6,
    "RandomShear": 0.4,
}


def has_imagenet_weights(model: keras.Model) -> bool:
    """Returns whether the first convolution is that of ImageNet's VGG16."""
    found = layers.find(model, keras.layers.Conv2D)
    kernel = np.asarray(found[0].kernel, np.float32) if found else np.zeros(0)
    return f"{google_crc32c.value(kernel.tobytes()):08x}" == IMAGENET_KERNEL


def check_finite(model: keras.Model) -> Finding | None:
    """Looks for weights that are NaN or infinite."""
    bad = [
        variable
        for variable in model.variables
        if not np.all(np.isfinite(np.asarray(variable, np.float32)))
    ]
    if not bad:
        return None
    return mistake(
        "diverged",
        f"{len(bad)} of {len(model.variables)} variables contain NaN or"
        f" infinity, such as {bad[0].path}",
        title="The weights are not finite, so the training diverged",
        cost=costs.DIVERGED_MODEL,
    )


def check_trained(model: keras.Model, steps: int | None) -> Finding | None:
    """Looks for a model that was saved before its training.

    Args:
      model: Image classifier.
      steps: Number of training steps. If None, unknown.
    """
    if steps != 0:
        return None
    frozen = [v for v in model.variables if v.path.endswith("bias")]
    zeros = sum(not np.any(np.asarray(bias)) for bias in frozen)
    # A pretrained base has biases, and an untrained head has none.
    if frozen and np.any(np.asarray(frozen[-1])):
        return None  # The weights were loaded, or trained by other code.
    return mistake(
        "not_trained",
        f"the optimizer made 0 steps, and {zeros} of {len(frozen)} bias vectors"
        " are 0",
    )


def check_frozen_base(model: keras.Model, *, imagenet: bool) -> Finding | None:
    """Looks for a model without trainable convolutions.

    Args:
      model: Image classifier.
      imagenet: Whether the convolutions have ImageNet's weights.
    """
    if not layers.has_frozen_base(model):
        return None
    found = layers.find(model, keras.layers.Conv2D)
    size = min(layer.output.shape[1] or 32 for layer in found)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    what = "" if imagenet else ", and the weights are not ImageNet's VGG16"
    height = model.inputs[0].shape[1] or 32
    return mistake(
        "frozen_base",
        f"0 of {len(found)} convolutions train, only {trained:,} weights of"
        f" the head do; at {height} pixels the last feature maps have"
        f" {size} x {size}{what}",
        cost=costs.frozen_base(height),
    )


def check_output_activation(activation: str) -> Finding | None:
    """Looks for a last layer whose outputs cannot be logits.

    Args:
      activation: Activation of the last layer.
    """
    if activation in ("softmax", "linear", "sigmoid", "log_softmax", ""):
        return None
    return mistake(
        "output_activation",
        f"the activation of 1 layer, the last one, is {activation}; a class"
        " with a saturated output has no gradient",
        title=f"The last layer ends in {activation}",
    )


def check_activations(model: keras.Model) -> Finding | None:
    """Looks for hidden layers that are all linear or saturate.

    Args:
      model: Image classifier.
    """
    hidden = [
        layer
        for layer in layers.flat_layers(model)[:-1]
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]
    # An activation may be a layer, which has no name of a function.
    names = [getattr(layer.activation, "__name__", "") for layer in hidden]
    separate = [
        layer
        for layer in layers.flat_layers(model)[:-1]
        if isinstance(layer, keras.layers.Activation)
        or type(layer).__module__.startswith("keras.src.layers.activations")
    ]
    if len(hidden) > 1 and {*names} == {"linear"} and not separate:
        title = "The hidden layers have no activation"
        seen = f"0 of {len(hidden)} hidden layers have an activation, so the"
        seen += " network is linear except for its pooling"
    else:
        count = sum(name in ("sigmoid", "tanh") for name in names)
        count += sum(
            getattr(getattr(layer, "activation", None), "__name__", "")
            in ("sigmoid", "tanh")
            for layer in separate
        )
        if count < _MANY_SATURATING or layers.is_normalized(model):
            return None
        title = "The hidden layers saturate"
        seen = f"{count} hidden layers have sigmoid or tanh, whose gradients"
        seen += " vanish in deep networks"
    return mistake("activation", seen, title=title)


def check_initial_weights(model: keras.Model) -> Finding | None:
    """Looks for layers whose filters are all equal."""
    kernels = [
        layer
        for layer in layers.find(
            model, keras.layers.Conv2D | keras.layers.Dense
        )
        if layer.kernel.shape[-1] > 1
    ]
    equal = [
        layer
        for layer in kernels
        if not np.any(np.ptp(np.asarray(layer.kernel), axis=-1))
    ]
    if not equal:
        return None
    return mistake(
        "initial_weights",
        f"in {len(equal)} of {len(kernels)} layers, such as {equal[0].name},"
        " all units have the same weights and gradients",
    )


def check_frozen_batch_norm(model: keras.Model) -> Finding | None:
    """Looks for batch normalization that is frozen with initial statistics."""
    found = layers.find(model, keras.layers.BatchNormalization)
    frozen = [
        layer
        for layer in found
        if not layer.trainable
        and not np.any(layer.moving_mean)
        and np.allclose(layer.moving_variance, 1.0)
    ]
    if not frozen:
        return None
    return mistake(
        "frozen_batch_norm",
        f"{len(frozen)} of {len(found)} layers are not trainable and have their"
        " initial mean 0 and variance 1",
    )


def check_regularization(
    model: keras.Model, *, train_accuracy: float | None
) -> Finding | None:
    """Looks for dropout, penalties or augmentation that prevent learning.

    Args:
      model: Image classifier.
      train_accuracy: Accuracy on training images in %. If None, unknown.
    """
    if train_accuracy is not None and train_accuracy > 75:
        return None
    found = []
    for layer in layers.flat_layers(model):
        kind = type(layer).__name__
        if "Dropout" in kind and layer.rate >= _STRONG_DROPOUT:
            found.append(f"{kind}({layer.rate:g})")
        penalty = getattr(layer, "kernel_regularizer", None)
        strength = float(getattr(penalty, "l2", 0.0) or 0.0)
        strength += float(getattr(penalty, "l1", 0.0) or 0.0)
        if strength >= _STRONG_PENALTY:
            found.append(f"a weight penalty of {strength:g} in {layer.name}")
        config = layer.get_config() if kind in _STRONG_AUGMENTATION else {}
        factors = [
            float(np.max(np.abs(value)))
            for name, value in config.items()
            if "factor" in name and value is not None
        ]
        if factors and max(factors) >= _STRONG_AUGMENTATION[kind]:
            found.append(f"{kind}({max(factors):g})")
    if not found:
        return None
    seen = ""
    if train_accuracy is not None:
        seen = f"; the training accuracy is only {train_accuracy:.1f}%"
    return mistake("regularization", f"{', '.join(found[:3])}{seen}")


# Name -> check of the layers alone.
CHECKS: dict[str, Callable[[keras.Model], Finding | None]] = {
    "diverged": check_finite,
    "activation": check_activations,
    "initial_weights": check_initial_weights,
    "frozen_batch_norm": check_frozen_batch_norm,
}
