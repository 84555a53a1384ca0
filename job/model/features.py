"""Features of a frozen base, which are computed only once.

base, head = vgg.split_base_and_head(network)
split = extract(base, resize, split, batch_size=500)
split.images                     # float32 [n, f] features
"""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from job.data.dataset import Split
from job.model.batches import predict_in_batches
from job.model.resize import Resize


def extract(
    base: keras.Model,
    resize: Resize,
    split: Split,
    *,
    batch_size: int,
    poll: Callable[[], None] = lambda: None,
) -> Split:
    """Returns a split whose images are replaced by their features.

    Args:
      base: Model from images, 0 to 255, to [b, f] features.
      resize: Scaling of the images before the model; see `resize`.
      split: Images, uint8 [n, 32, 32, 3], and labels.
      batch_size: Images per batch, on one device.
      poll: Function called before each batch. An exception that it raises ends
        the extraction.

    Returns:
      Features, float32 [n, f], with the labels.
    """

    def compute(images: tf.Tensor) -> tf.Tensor:
        images = resize(tf.cast(images, tf.float32))
        return tf.cast(base(images, training=False), tf.float32)

    features = predict_in_batches(
        compute, split.images, batch_size=batch_size, poll=poll
    )
    return dataclasses.replace(split, images=features)
