"""Small Keras models of images, each with one mistake or without any."""

import keras
import numpy as np


def sequential(*layers, input_shape=(32, 32, 3)):
    """Returns a Sequential model with reproducible weights, not compiled."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(input_shape), *layers])


def plain_layers(units=10, activation="softmax"):
    """Returns the layers of a small classifier."""
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3, strides=4, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation),
    ]


def plain(units=10, activation="softmax"):
    """Returns a small classifier, not compiled."""
    return sequential(*plain_layers(units, activation))


def compiled(model, loss="sparse_categorical_crossentropy", **kwargs):
    """Compiles a model and returns it."""
    options = {"optimizer": "sgd", "metrics": ["accuracy"], **kwargs}
    model.compile(loss=loss, **options)
    return model


def crossentropy(*, from_logits):
    """Returns the loss of integer labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def redness(*, rescale):
    """Returns a model that recognizes ten shades of red, on pixels 0 to 1.

    Args:
      rescale: Whether the model divides pixels by 255 itself.
    """
    dense = keras.layers.Dense(10)
    layers = [keras.layers.GlobalAveragePooling2D(), dense]
    if rescale:
        layers.insert(0, keras.layers.Rescaling(1 / 255))
    model = sequential(*layers)
    # The logit is largest for the class in whose tenth of the range red is.
    middle = (np.arange(10) + 0.5) / 10
    kernel = np.zeros((3, 10), np.float32)
    kernel[0] = 2 * middle * 1000
    dense.set_weights([kernel, (-1000 * middle**2).astype(np.float32)])
    return compiled(model, crossentropy(from_logits=True))


def redness_by_filters(kernel):
    """Returns `redness` on pixels 0 to 1, after a convolution.

    Args:
      kernel: Kernel of the convolution, float32 [1, 1, 3, 3].
    """
    convolution = keras.layers.Conv2D(3, 1, use_bias=False)
    model = sequential(convolution, *redness(rescale=False).layers)
    convolution.set_weights([kernel])
    return compiled(model, crossentropy(from_logits=True))


def redness_by_statistics(*, variance):
    """Returns `redness` after a normalization that is undone.

    Args:
      variance: Moving variance, as a multiple of that of the images.
    """
    inner = redness(rescale=True)
    norm = keras.layers.BatchNormalization(scale=False, center=False)
    undo = keras.layers.Rescaling(0.2887, offset=0.5)
    model = sequential(inner.layers[0], norm, undo, *inner.layers[1:])
    norm.moving_mean.assign([0.5] * 3)
    norm.moving_variance.assign([0.0833 * variance] * 3)
    return compiled(model, crossentropy(from_logits=True))


def frozen_norm(*, initial):
    """Returns a model with frozen batch normalization.

    Args:
      initial: Whether the statistics are the initial ones.
    """
    norm = keras.layers.BatchNormalization(trainable=False)
    first, *others = plain_layers()
    model = sequential(first, norm, *others)
    if not initial:
        norm.moving_mean.assign([0.5] * 3)
    return compiled(model)


def biased(bias):
    """Returns a classifier whose convolution has this bias."""
    model = plain()
    convolution = model.layers[1]
    kernel, _ = convolution.get_weights()
    convolution.set_weights([kernel, np.full(4, bias, np.float32)])
    return compiled(model)


def inner_base(*, trainable):
    """Returns a model on a base whose last feature map is one pixel."""
    base = sequential(
        keras.layers.Conv2D(4, 3, strides=8, padding="same"),
        keras.layers.MaxPooling2D(4),
    )
    base.trainable = trainable
    return compiled(
        sequential(
            keras.layers.Rescaling(1 / 255),
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(10, "softmax"),
        )
    )


def float16_model():
    """Returns a classifier whose own policy is mixed_float16."""
    keras.config.set_dtype_policy(keras.DTypePolicy("mixed_float16"))
    try:
        return compiled(plain())
    finally:
        keras.config.set_dtype_policy("float32")


def float16_layer():
    """Returns a float32 classifier with one mixed_float16 layer."""
    mixed = keras.DTypePolicy("mixed_float16")
    dense = keras.layers.Dense(10, "softmax", dtype=mixed)
    return compiled(sequential(*plain_layers()[:-1], dense))


def decayed(weight_decay):
    """Returns a classifier compiled with SGD, momentum 0.9 and this decay."""
    optimizer = keras.optimizers.SGD(
        0.1, momentum=0.9, weight_decay=weight_decay
    )
    return compiled(plain(), optimizer=optimizer)


def confident(scale):
    """Returns a classifier whose logits are multiplied by `scale`."""
    model = plain(activation=None)
    dense = model.layers[-1]
    dense.set_weights([weight * scale for weight in dense.get_weights()])
    return compiled(model, crossentropy(from_logits=True))
