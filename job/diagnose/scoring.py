"""Predictions of a Keras model on CIFAR-10's images, and their scores.

    outputs = predict(model, split.images, "unit")
    top_1(outputs, split.labels)

The images are resized to what the model takes.
"""

import keras
import numpy as np
import numpy.typing as npt

from job.diagnose import pixels

_Array = npt.NDArray

_BATCH = 64
# Largest difference to 1 of the sum of an image's probabilities.
_SUM_TO_ONE = 1e-3


def predict(model: keras.Model, images: _Array, scale: str) -> _Array:
    """Returns the outputs of a model, float32 [n, units].

    Args:
      model: Model of images.
      images: Images, uint8 [n, 32, 32, 3].
      scale: Scale of pixels, a key of `pixels.SCALES`.
    """
    prepared = prepare(model, images, scale)
    outputs = model.predict(prepared, batch_size=_BATCH, verbose=0)
    return np.asarray(outputs, np.float32)


def prepare(model: keras.Model, images: _Array, scale: str) -> _Array:
    """Returns images as the model takes them, float32 [n, h, w, 3].

    Args:
      model: Model of images.
      images: Images, uint8 [n, 32, 32, 3].
      scale: Scale of pixels, a key of `pixels.SCALES`.
    """
    size = input_size(model)
    if size != images.shape[1:3]:
        images = images.astype(np.float32)
        images = np.asarray(keras.ops.image.resize(images, size))
    return pixels.scale(images, scale)


def input_size(model: keras.Model) -> tuple[int, ...]:
    """Returns the height and width of the images that a model takes.

    32 stands for a size that the model leaves open.
    """
    return tuple(size or 32 for size in model.inputs[0].shape[1:3])


def top_1(outputs: _Array, labels: _Array) -> float:
    """Returns the accuracy in %.

    Args:
      outputs: Logits or probabilities, float32 [n, k].
      labels: Labels, int [n].
    """
    return 100 * float((outputs.argmax(axis=1) == labels).mean())


def cross_entropy(outputs: _Array, labels: _Array) -> float:
    """Returns the mean cross-entropy in nats.

    Args:
      outputs: Logits, or probabilities that sum to 1, float32 [n, k].
      labels: Labels, int [n].
    """
    logs = (
        np.log(np.maximum(outputs, 1e-12))
        if are_probabilities(outputs)
        else outputs
    )
    logs = logs - logs.max(axis=1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def are_probabilities(outputs: _Array) -> bool:
    """Returns whether the outputs of each image sum to 1.

    Args:
      outputs: Outputs of a model, float32 [n, k].
    """
    off = np.abs(outputs.sum(axis=1) - 1).max()
    return bool(off < _SUM_TO_ONE and outputs.min() >= 0)
