"""Classification of image files by a trained network.

    inputs = image_file.find(["cat.png", "photos/", "gs://bucket/photos"])
    for answer in predict(inputs, network, resize, class_names):
        print(to_json(answer))

The answer for an unreadable file gives the reason. Other answers are not
affected.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from job import errors
from job.data import image_file
from job.data.dataset import IMAGE_SIZE
from job.model.batches import batch_size_for, compile_for_batches
from job.model.resize import Resize

# Number of classes in an answer.
TOP = 3

# Batch size for images of 32 px.
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Answer:
    """Most probable classes of an image file.

    Attributes:
      name: Name of the file.
      top: Class names and probabilities, 0 to 1, the most probable first. Empty
        if the file is unreadable.
      error: Reason why the file is unreadable. Empty if it was read.
    """

    name: str
    top: tuple[tuple[str, float], ...]
    error: str = ""


def predict(
    inputs: Iterable[image_file.Input],
    network: keras.Model,
    resize: Resize,
    class_names: Sequence[str],
    *,
    poll: Callable[[], None] = lambda: None,
    batch_at_32: int = _BATCH,
) -> Iterator[Answer]:
    """Yields the answer for each file, in the order of the files.

    Args:
      inputs: Image files; see `image_file.find`.
      network: Trained network in float32; see `vgg.vgg16`.
      resize: Resize layer in front of the network.
      class_names: Names of the classes, in the order of the labels.
      poll: Function called before each batch. An exception that it raises ends
        the iteration.
      batch_at_32: Batch size for images of 32 px. It is reduced for larger
        images, so that a batch takes as much memory.
    """
    size = int(resize(tf.zeros([1, IMAGE_SIZE, IMAGE_SIZE, 3])).shape[1])
    batch = batch_size_for(size, batch_at_32)
    compute = compile_for_batches(
        lambda images: tf.nn.softmax(
            network(resize(images), training=False)[0]
        ),
        batch_size=batch,
    )
    remaining = iter(inputs)
    while group := list(itertools.islice(remaining, batch)):
        poll()
        images = np.zeros([len(group), IMAGE_SIZE, IMAGE_SIZE, 3], np.uint8)
        wrong = {}
        for place, one in enumerate(group):
            try:
                images[place] = image_file.decode(one.read())
            except (errors.DataError, errors.StorageError) as error:
                wrong[place] = str(error)
        probabilities = compute(images)
        for place, one in enumerate(group):
            if place in wrong:
                yield Answer(one.name, (), wrong[place])
                continue
            order = np.argsort(-probabilities[place], kind="stable")[:TOP]
            yield Answer(
                one.name,
                tuple(
                    (class_names[i], float(probabilities[place][i]))
                    for i in order
                ),
            )


def to_json(answer: Answer) -> str:
    """Returns an answer as one line of JSON."""
    if answer.error:
        return json.dumps({"input": answer.name, "error": answer.error})
    top = [{"class": name, "probability": p} for name, p in answer.top]
    return json.dumps({"input": answer.name, "top": top})


def to_row(answer: Answer, width: int) -> str:
    """Returns an answer as a row of a table.

    Args:
      answer: Answer for a file.
      width: Width of the column of names, in characters.
    """
    name = errors.printable(answer.name)
    if answer.error:
        return f"{name:<{width}}  not read: {errors.printable(answer.error)}"
    cells = [f"{name:<10} {p:6.1%}" for name, p in answer.top]
    return f"{name:<{width}}  {'   '.join(cells)}"
