"""Outputs of a Keras model and their scores.

outputs = outputs_of(model, prepare(model, split.images, Reading("unit")))
top_1(outputs, split.labels)
"""

import keras
import numpy as np
import numpy.typing as npt

from job.diagnose.pixels import Reading

_Array = npt.NDArray

_BATCH = 64
# Tolerated difference from 1 of the sum of an image's probabilities. That of a
# softmax in bfloat16 is up to 0.003.
_SUM_TO_ONE = 0.01


def prepare(model: keras.Model, images: _Array, reading: Reading) -> _Array:
    """Returns images as the model takes them, float32 [n, h, w, 3].

    Args:
      model: Image classifier.
      images: RGB images of any size, [n, h, w, 3], 0 to 255.
      reading: Scale, channel order and layout of the pixels.
    """
    prepared = reading.apply(images)
    size = input_size(model)
    if size != images.shape[1:3]:
        prepared = np.asarray(keras.ops.image.resize(prepared, size))
    return prepared


def outputs_of(model: keras.Model, images: _Array) -> _Array:
    """Returns the outputs of a model, float32 [n, units].

    A single logit of two classes becomes a probability.

    Args:
      model: Image classifier.
      images: Images as the model takes them, [n, h, w, 3].
    """
    batches = [
        np.asarray(model(images[i : i + _BATCH], training=False), np.float32)
        for i in range(0, len(images), _BATCH)
    ]
    outputs = np.concatenate(batches)
    loss = getattr(model, "loss", None)
    if (
        outputs.shape[1] == 1
        and isinstance(loss, keras.losses.BinaryCrossentropy)
        and loss.from_logits
    ):
        outputs = np.asarray(keras.ops.sigmoid(outputs))
    return outputs


def answers(model: keras.Model, images: _Array, reading: Reading) -> _Array:
    """Returns the outputs for images in a reading; see `prepare`."""
    return outputs_of(model, prepare(model, images, reading))


def input_size(model: keras.Model) -> tuple[int, ...]:
    """Returns the height and width of the images that a model takes.

    A size that the model does not fix is 32.
    """
    return tuple(size or 32 for size in model.inputs[0].shape[1:3])


def targets(labels: _Array, *, units: int, one_hot: bool) -> _Array:
    """Returns labels as a loss takes them.

    Args:
      labels: Labels, int [n].
      units: Number of outputs.
      one_hot: Whether the loss takes one value per output.
    """
    if not one_hot:
        return labels
    if units == 1:
        return labels.astype(np.float32)[:, None]
    return np.eye(units, dtype=np.float32)[labels]


def classes_of(outputs: _Array) -> _Array:
    """Returns the predicted class of each image, int [n].

    Args:
      outputs: Outputs, float32 [n, units]. A single unit is the class index.
    """
    if outputs.shape[1] == 1:
        return np.rint(np.nan_to_num(outputs[:, 0])).astype(int)
    return outputs.argmax(axis=1)


def top_1(outputs: _Array, labels: _Array) -> float:
    """Returns the top-1 accuracy in %.

    Args:
      outputs: Logits or probabilities, float32 [n, k].
      labels: Labels, int [n].
    """
    return 100 * float((classes_of(outputs) == labels).mean())


def are_probabilities(outputs: _Array) -> bool:
    """Returns whether the outputs of each image sum to 1.

    Args:
      outputs: Outputs of a model, float32 [n, k].
    """
    off = np.abs(outputs.sum(axis=1) - 1).max()
    return bool(off < _SUM_TO_ONE and outputs.min() >= 0)


def best_order(classes: _Array, labels: _Array, num_classes: int) -> _Array:
    """Returns the class order with the highest accuracy.

    The search exchanges two classes at a time, starting at each cyclic shift.

    Args:
      classes: Predicted classes, int [n], 0 to num_classes - 1.
      labels: Labels, int [n].
      num_classes: Number of classes.

    Returns:
      Label of each class, int [num_classes].
    """
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (classes, labels), 1)
    rows = np.arange(num_classes)
    best = rows
    for shift in range(num_classes):
        order = (rows + shift) % num_classes
        improved = True
        while improved:
            improved = False
            for i in range(num_classes):
                for j in range(i):
                    now = counts[i, order[i]] + counts[j, order[j]]
                    if counts[i, order[j]] + counts[j, order[i]] > now:
                        order[[i, j]] = order[[j, i]]
                        improved = True
        if counts[rows, order].sum() > counts[rows, best].sum():
            best = order
    return best
