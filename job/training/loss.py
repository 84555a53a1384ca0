"""Loss of a batch and its gradients, the pure part of a training step.

The loss of a replica is the sum over its examples divided by the *global* batch
size. The gradients summed over any number of replicas are therefore those of
the mean over the global batch.

    forward_backward = make_forward_backward(network, resize, variables, ...)
    sums = forward_backward(augmented, labels, None, tf.constant(1.0))
    sums.gradients
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from job.augment import Augmented
from job.augment.mixing import partner
from job.model.resize import Resize


class StepSums(NamedTuple):
    """Tensors of a step that are summed over replicas.

    Attributes:
      gradients: Gradient of each trained variable, times the loss scale.
      statistics: Batch mean and variance of each normalization layer, divided
        by the number of replicas.
      loss: Sum over the examples divided by the global batch size, float32 [].
      correct: Number of correct predictions, float32 [].
    """

    gradients: list[tf.Tensor]
    statistics: list[tf.Tensor]
    loss: tf.Tensor
    correct: tf.Tensor


# (augmented images, int32 [b] labels, float32 [b, d] random numbers for dropout
# or None, float32 [] loss scale) -> sums.
ForwardBackward = Callable[
    [Augmented, tf.Tensor, tf.Tensor | None, tf.Tensor], StepSums
]


def smoothed_targets(
    labels: tf.Tensor, *, num_classes: int, label_smoothing: float
) -> tf.Tensor:
    """Returns class distributions with smoothing (Szegedy et al. 2016).

    Args:
      labels: Labels, int32 [b], 0 to k - 1.
      num_classes: Number of classes, k.
      label_smoothing: Fraction that is spread evenly over the classes, from 0
        to below 1.

    Returns:
      Target distributions, float32 [b, k].
    """
    off = label_smoothing / num_classes
    return tf.one_hot(labels, num_classes, 1 - label_smoothing + off, off)


def mixed_targets(targets: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    """Mixes the targets as the images are mixed (see `augment.Augmented`).

    Args:
      targets: Target distributions, float32 [b, k].
      weight: Weight of the image's own target, float32 [b], 0 to 1. If None,
        the images are not mixed.

    Returns:
      Mixed distributions, float32 [b, k].
    """
    if weight is None:
        return targets
    other = partner(targets)
    return other + weight[:, None] * (targets - other)


def hits(
    logits: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor | None
) -> tf.Tensor:
    """Returns the weight of the predicted class in each target.

    Args:
      logits: Logits, float32 [b, k].
      labels: Labels, int32 [b], 0 to k - 1.
      weight: Weight of the image's own target, float32 [b], 0 to 1. If None,
        the images are not mixed.

    Returns:
      Weights, float32 [b], 0 to 1. Without mixing, 1 for a correct prediction
      and 0 for a wrong one.
    """
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if weight is None:
        return tf.cast(tf.equal(predicted, labels), tf.float32)
    num_classes = logits.shape[-1]
    targets = mixed_targets(tf.one_hot(labels, num_classes), weight)
    return tf.reduce_sum(tf.one_hot(predicted, num_classes) * targets, axis=1)


def make_forward_backward(
    network: keras.Model,
    resize: Resize,
    variables: list[keras.Variable],
    *,
    label_smoothing: float,
    global_batch_size: int,
    num_replicas: int,
) -> ForwardBackward:
    """Returns the forward and backward pass of one replica.

    The pass assigns no variable and needs no other replica.

    Args:
      network: Network of `vgg.vgg16`, or its head.
      resize: Scaling of the images before the network; see `model.resize`.
      variables: Trainable variables whose gradients are computed.
      label_smoothing: Fraction of the target that is spread evenly over the
        classes, from 0 to below 1.
      global_batch_size: Images per step, over all replicas.
      num_replicas: Number of replicas.
    """
    weights = [variable.value for variable in variables]
    num_classes = network.outputs[0].shape[-1]

    def forward_backward(
        augmented: Augmented,
        labels: tf.Tensor,
        noise: tf.Tensor | None,
        loss_scale: tf.Tensor,
    ) -> StepSums:
        images, mix_weight = augmented
        images = resize(images)
        inputs = images if noise is None else [images, noise]
        targets = smoothed_targets(
            labels, num_classes=num_classes, label_smoothing=label_smoothing
        )
        targets = mixed_targets(targets, mix_weight)
        # Only trained weights are watched, so the tape omits frozen layers.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, statistics = network(inputs, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / global_batch_size
            scaled_loss = loss * loss_scale
        return StepSums(
            gradients=tape.gradient(scaled_loss, weights),
            statistics=[value / num_replicas for value in statistics],
            loss=loss,
            correct=tf.reduce_sum(hits(logits, labels, mix_weight)),
        )

    return forward_backward
