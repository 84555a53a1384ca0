"""Keras models as tutorials write them, each trained with one mistake or none.

    case = next(case for case in CASES if case.name == "bgr")
    model = case.train(data.train)

A case trains for real, on a few thousand images. Tests save the model, let the
diagnosis read the file, and compare the first finding with `case.first`.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from job.data.dataset import Split

SPARSE = "sparse_categorical_crossentropy"


def unit(images):
    """Returns pixels divided by 255, as most tutorials scale them."""
    return images / 255.0


def raw(images):
    """Returns pixels as they are."""
    return images


def bgr(images):
    """Returns images as OpenCV loads them, divided by 255."""
    return images[..., ::-1] / 255.0


def reshaped(images):
    """Returns channels-first bytes, reshaped where a transpose is needed."""
    channels_first = images.transpose(0, 3, 1, 2)
    return channels_first.reshape(images.shape) / 255.0


def whole(labels):
    """Returns labels from 0 to 9."""
    return labels


def one_hot(labels):
    """Returns one-hot labels, float32 [n, 10]."""
    return keras.utils.to_categorical(labels, 10)


def off_by_one(labels):
    """Returns labels whose classes are numbered from 1, modulo 10."""
    return (labels + 1) % 10


def shuffled(labels):
    """Returns labels in another order than their images."""
    return np.random.default_rng(0).permutation(labels)


def reordered(labels):
    """Returns labels whose classes are in another order."""
    return np.array([3, 8, 0, 5, 9, 2, 7, 1, 6, 4])[labels]


def tutorial(
    *,
    scale=False,
    units=10,
    output="softmax",
    hidden="relu",
    head=(),
    dropout=0.0,
    first=(),
    **conv,
):
    """Returns the layers of TensorFlow's tutorial on CIFAR-10.

    Args:
      scale: Whether a Rescaling layer divides the pixels by 255.
      units: Number of outputs.
      output: Activation of the last layer.
      hidden: Activation of the other layers.
      head: Units of dense layers before the last two.
      dropout: Dropout before the last layer.
      first: Layers before the first convolution.
      **conv: Arguments of all convolutions and of the dense layer.
    """
    options = {"activation": hidden, **conv}
    stack = [keras.Input((32, 32, 3)), *first]
    if scale:
        stack.append(layers.Rescaling(1 / 255))
    stack += [
        layers.Conv2D(32, 3, **options),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, **options),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, **options),
        layers.Flatten(),
        *(layers.Dense(each, **options) for each in head),
        layers.Dense(64, **options),
    ]
    if dropout:
        stack.append(layers.Dropout(dropout))
    stack.append(layers.Dense(units, activation=output))
    return keras.Sequential(stack)


def normalized(*, momentum=0.9, first=()):
    """Returns a network of six convolutions with batch normalization."""
    stack = [keras.Input((32, 32, 3)), *first, layers.Rescaling(1 / 255)]
    for filters in (16, 32, 64):
        for _ in range(2):
            stack += [
                layers.Conv2D(filters, 3, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=momentum),
                layers.ReLU(),
            ]
        stack.append(layers.MaxPooling2D())
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(10, "softmax")]
    return keras.Sequential(stack)


def vgg16(*, weights=True, trainable=False, size=32, head=(128,), upsample=()):
    """Returns VGG16 of keras.applications with a head, as in docs/tutorial.md.

    Args:
      weights: Whether it has ImageNet's weights, from VGG16_WEIGHTS.
      trainable: Whether the base is trained.
      size: Height and width of the base's input, in pixels.
      head: Units of dense layers before the last.
      upsample: Layers between the 32-pixel input and the base.
    """
    base = keras.applications.VGG16(
        weights=os.environ["VGG16_WEIGHTS"] if weights else None,
        include_top=False,
        input_shape=(size, size, 3),
    )
    base.trainable = trainable
    inputs = keras.Input((32, 32, 3) if upsample else (size, size, 3))
    x = inputs
    for layer in upsample:
        x = layer(x)
    x = layers.Flatten()(base(x))
    for units in head:
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def upsampled():
    """Returns listing 3 of docs/tutorial.md, UpSampling2D before VGG16."""
    return vgg16(size=64, upsample=(layers.UpSampling2D((2, 2)),))


def collapsed():
    """Returns listing 1 of docs/tutorial.md, VGG16 from scratch, augmented."""
    base = vgg16(weights=False, trainable=True)
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.RandomRotation(15 / 360),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomFlip("horizontal"),
            layers.RandomZoom(0.1),
            base,
        ]
    )


def augmented(rotation=0.02, shift=0.05):
    """Returns the tutorial's network after layers of augmentation."""
    return tutorial(
        scale=True,
        first=(
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(rotation),
            layers.RandomTranslation(shift, shift),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its training and the right first finding.

    Attributes:
      name: Name of the case.
      first: Check of the right first finding. None for a sound model.
      build: Function that returns the model, not compiled.
      images: Function from raw images, float32 [n, h, w, 3], to the model's.
      labels: Function from integer labels to the loss's.
      loss: Loss of the compilation.
      optimizer: Function that returns the optimizer.
      metrics: Metrics of the compilation.
      count: Number of training images.
      epochs: Number of epochs.
      size: Height and width of the images, in pixels.
      ordered: Whether the images are sorted by class and not shuffled.
      classes: Number of classes in the training images.
      is_fast: Whether every test run trains it.
      needs_weights: Whether it has ImageNet's weights.
    """

    name: str
    first: str | None
    build: Callable[[], keras.Model]
    images: Callable = unit
    labels: Callable = whole
    loss: Any = SPARSE
    optimizer: Callable[[], Any] = keras.optimizers.Adam
    metrics: tuple[Any, ...] = ("accuracy",)
    count: int = 4000
    epochs: int = 4
    size: int = 32
    ordered: bool = False
    classes: int = 10
    is_fast: bool = False
    needs_weights: bool = False

    def train(self, split: Split) -> keras.Model:
        """Returns the model, trained on the first images of a split."""
        keras.utils.set_random_seed(1)
        rows = np.flatnonzero(split.labels < self.classes)[: self.count]
        if self.ordered:
            rows = rows[np.argsort(split.labels[rows], kind="stable")]
        images = split.images[rows].astype(np.float32)
        if self.size != 32:
            images = np.asarray(
                keras.ops.image.resize(images, (self.size, self.size))
            )
        model = self.build()
        model.compile(
            optimizer=self.optimizer(),
            loss=self.loss() if isinstance(self.loss, type) else self.loss,
            metrics=list(self.metrics),
        )
        model.fit(
            self.images(images),
            self.labels(split.labels[rows]),
            batch_size=32,
            epochs=self.epochs,
            shuffle=not self.ordered,
            verbose=0,
        )
        return model


def _adam(rate):
    return functools.partial(keras.optimizers.Adam, rate)


def _sgd(rate, momentum=0.9, **options):
    return functools.partial(
        keras.optimizers.SGD, rate, momentum=momentum, **options
    )


def _from_logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _of(function, **options):
    return functools.partial(function, **options)


_L2 = keras.regularizers.L2
_SHORT = {"count": 500, "epochs": 2}
_BASE = {**_SHORT, "needs_weights": True}

CASES = (
    Case("sound", None, tutorial, is_fast=True),
    Case("sound_rescaling", None, _of(tutorial, scale=True), raw),
    Case("sound_batch_norm", None, normalized, raw),
    Case("sound_augmented", None, augmented, raw, epochs=6),
    Case("sound_logits", None, _of(tutorial, output=None), loss=_from_logits()),
    Case("sound_sgd", None, normalized, raw, optimizer=_sgd(0.05)),
    Case(
        "sound_one_hot",
        None,
        tutorial,
        unit,
        one_hot,
        "categorical_crossentropy",
    ),
    Case("unscaled", "unscaled_pixels", tutorial, raw, is_fast=True),
    Case("scaled_twice", "scaled_twice", _of(tutorial, scale=True), unit),
    Case(
        "sigmoid",
        "loss",
        _of(tutorial, output="sigmoid"),
        unit,
        one_hot,
        "binary_crossentropy",
        metrics=("accuracy", "binary_accuracy"),
    ),
    Case(
        "sigmoid_top_1",
        "loss",
        _of(tutorial, output="sigmoid"),
        unit,
        one_hot,
        "binary_crossentropy",
    ),
    Case("mean_squared_error", "loss", tutorial, unit, one_hot, "mse"),
    Case("softmax_twice", "from_logits", tutorial, loss=_from_logits()),
    Case("no_softmax", "from_logits", _of(tutorial, output=None)),
    Case(
        "relu_output",
        "output_activation",
        _of(tutorial, output="relu"),
        loss=_from_logits(),
    ),
    Case("adam_high", "learning_rate", tutorial, optimizer=_adam(1e-2)),
    Case("adam_very_high", "learning_rate", tutorial, optimizer=_adam(5e-2)),
    Case("adam_low", "learning_rate", tutorial, optimizer=_adam(3e-5)),
    Case("sgd_high", "learning_rate", tutorial, optimizer=_sgd(0.2)),
    Case("sgd_very_high", "learning_rate", tutorial, optimizer=_sgd(1.0)),
    Case("sgd_low", "learning_rate", tutorial, optimizer=_sgd(3e-4)),
    Case(
        "sgd_low_batch_norm",
        "learning_rate",
        normalized,
        raw,
        optimizer=_sgd(1e-3 / 3),
    ),
    Case(
        "adadelta",
        "learning_rate",
        tutorial,
        optimizer=keras.optimizers.Adadelta,
    ),
    Case(
        "diverged",
        "diverged",
        _of(tutorial, output=None),
        raw,
        one_hot,
        "mse",
        optimizer=_sgd(0.1),
    ),
    Case("off_by_one", "class_order", tutorial, labels=off_by_one),
    Case("reordered", "class_order", tutorial, labels=reordered),
    Case("shuffled_labels", "shuffled_labels", tutorial, labels=shuffled),
    Case("bgr", "channel_order", tutorial, bgr, epochs=6),
    Case("scrambled", "pixel_layout", tutorial, reshaped),
    Case(
        "regression",
        "output_units",
        _of(tutorial, units=1, output=None),
        loss="mse",
    ),
    Case("hundred_outputs", "output_units", _of(tutorial, units=100)),
    Case(
        "memorized",
        "memorized",
        _of(tutorial, head=(1024, 1024)),
        count=3000,
        epochs=20,
    ),
    Case("not_shuffled", "not_shuffled", tutorial, ordered=True),
    Case("five_classes", "missing_classes", tutorial, classes=5),
    Case(
        "running_statistics",
        "running_moments",
        _of(normalized, momentum=0.99),
        raw,
        count=2000,
        epochs=1,
    ),
    Case("dropout", "regularization", _of(tutorial, dropout=0.95)),
    Case(
        "weight_penalty",
        "regularization",
        _of(tutorial, kernel_regularizer=_L2(0.1)),
    ),
    Case(
        "strong_augmentation",
        "regularization",
        _of(augmented, rotation=0.5, shift=0.6),
        raw,
    ),
    Case("hidden_sigmoid", "activation", _of(tutorial, hidden="sigmoid")),
    Case("linear", "activation", _of(tutorial, hidden=None)),
    Case(
        "zero_kernels",
        "initial_weights",
        _of(tutorial, kernel_initializer="zeros"),
    ),
    Case("untrained", "not_trained", tutorial, epochs=0),
    Case("frozen_32", "frozen_base", vgg16, unit, **_BASE),
    Case(
        "frozen_64",
        "frozen_base",
        _of(vgg16, size=64),
        unit,
        size=64,
        count=300,
        epochs=2,
        needs_weights=True,
    ),
    Case(
        "frozen_random",
        "frozen_base",
        _of(vgg16, weights=False),
        unit,
        **_SHORT,
    ),
    Case(
        "unfrozen_adam",
        "learning_rate",
        _of(vgg16, trainable=True),
        unit,
        **_BASE,
    ),
    Case(
        "vgg16_scratch",
        "learning_rate",
        _of(vgg16, weights=False, trainable=True),
        unit,
        **_SHORT,
    ),
    Case(
        "listing_1",
        "learning_rate",
        collapsed,
        unit,
        one_hot,
        "categorical_crossentropy",
        **_SHORT,
    ),
    Case(
        "listing_2",
        "frozen_base",
        vgg16,
        raw,
        one_hot,
        "categorical_crossentropy",
        **_BASE,
    ),
    Case(
        "listing_3",
        "frozen_base",
        upsampled,
        raw,
        one_hot,
        "categorical_crossentropy",
        count=300,
        epochs=2,
        needs_weights=True,
    ),
)
