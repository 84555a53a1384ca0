"""Features of a base that never trains: computed once, not once an epoch.

base, head = model.split(network)
split = extract(base, resize, split, batch_size=500)
split.images                     # float32 [n, f] where images had been
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from job.data.dataset import Split
from job.model.resize import Resize


def extract(
    base: keras.Model,
    resize: Resize,
    split: Split,
    *,
    batch_size: int,
    poll: Callable[[], None] = lambda: None,
) -> Split:
    """Returns `split` with the features of its images in their place.

    Args:
      base: from images, 0 to 255, to features [b, f].
      resize: what is done to images before; see `job.resize`.
      split: uint8 [n, 32, 32, 3] images.
      batch_size: images at once, on one device.
      poll: called between two batches; what it raises ends it.

    Returns:
      float32 [n, f] features, with the labels.
    """

    @tf.function(
        input_signature=[tf.TensorSpec([batch_size, *split.images.shape[1:]])],
        autograph=False,
    )
    def compute(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(base(resize(images), training=False), tf.float32)

    parts = []
    for first in range(0, len(split), batch_size):
        poll()
        images = split.images[first : first + batch_size]
        missing = batch_size - len(images)
        filled = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        part = compute(tf.constant(filled, tf.float32)).numpy()
        parts.append(part[: len(images)])
    return dataclasses.replace(split, images=np.concatenate(parts))
