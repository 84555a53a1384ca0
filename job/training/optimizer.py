"""The rate of each step, and what a step does to the weights.

Plain functions: the variables belong to `state`, the order to `step`.

    learning_rate = create_learning_rate_fn(peak=0.4, ...)
    learning_rate(step)                     # float32 []
    sgd_update(weight, momentum_buffer, gradient, ...)
"""

import math
from collections.abc import Callable

import tensorflow as tf

LearningRateFn = Callable[[tf.Tensor], tf.Tensor]


def create_learning_rate_fn(
    *, peak: float, schedule: str, train_steps: int, warmup_steps: int
) -> LearningRateFn:
    """Returns the learning rate as a function of the step.

    Args:
      peak: the rate when the warm-up is over.
      schedule: after it: constant; linear: straight to 0; or cosine: half a
        wave to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983).
      train_steps: steps of the run; 0 is reached after the last one.
      warmup_steps: steps of straight climb; the first one has peak / steps.

    Returns:
      int64 [] step, from 0 -> float32 [] rate.
    """
    warmup_steps = min(warmup_steps, train_steps)

    def learning_rate(step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        climbed = (step + 1) / max(1, warmup_steps)
        left = (train_steps - step) / max(1, train_steps - warmup_steps)
        left = tf.clip_by_value(left, 0.0, 1.0)
        if schedule == "linear":
            factor = left
        elif schedule == "cosine":
            factor = 0.5 - 0.5 * tf.cos(math.pi * left)
        else:
            factor = tf.ones_like(left)
        return peak * tf.where(step < warmup_steps, climbed, factor)

    return learning_rate


def sgd_update(
    weight: tf.Variable,
    momentum_buffer: tf.Variable,
    gradient: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: float,
    weight_decay: float,
) -> None:
    """SGD with Nesterov momentum and coupled weight decay, in place.

    As `torch.optim.SGD(nesterov=True)` does it: with g = gradient + decay * w,
    buffer = momentum * buffer + g, then w -= rate * (g + momentum * buffer).

    Args:
      weight: float32, any shape.
      momentum_buffer: float32, of the same shape, zeros at first.
      gradient: float32, of the same shape.
      learning_rate: float32 [].
      momentum: 0 to 1, exclusive; 0.0 is plain SGD.
      weight_decay: times the weight, added to the gradient.
    """
    if weight_decay:
        gradient += weight_decay * weight
    tf.raw_ops.ResourceApplyMomentum(
        var=weight.handle,
        accum=momentum_buffer.handle,
        lr=learning_rate,
        grad=gradient,
        momentum=momentum,
        use_nesterov=True,
    )


# What Keras and the paper have.
ADAM_BETA_2 = 0.999
ADAM_EPSILON = 1e-7


def adam_update(
    weight: tf.Variable,
    first_moment: tf.Variable,
    second_moment: tf.Variable,
    gradient: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: float,
    weight_decay: float,
    step: tf.Tensor,
) -> None:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), in place.

    Weight decay is decoupled (AdamW; Loshchilov & Hutter 2019,
    arXiv:1711.05101): w -= rate * decay * w, beside Adam's own step.

    Args:
      weight: float32, any shape.
      first_moment: float32, of the same shape, zeros at first.
      second_moment: likewise.
      gradient: float32, of the same shape.
      learning_rate: float32 [].
      momentum: beta 1, 0 to 1, exclusive; beta 2 is `ADAM_BETA_2`.
      weight_decay: times the rate and the weight, taken off.
      step: int64 [], updates of this weight before this one; the moments'
        start at 0 is corrected by it.
    """
    if weight_decay:
        weight.assign_sub(learning_rate * weight_decay * weight)
    t = tf.cast(step + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=first_moment.handle,
        v=second_moment.handle,
        beta1_power=tf.pow(momentum, t),
        beta2_power=tf.pow(ADAM_BETA_2, t),
        lr=learning_rate,
        beta1=momentum,
        beta2=ADAM_BETA_2,
        epsilon=ADAM_EPSILON,
        grad=gradient,
    )


def ema_kept(step: tf.Tensor, *, decay: float) -> tf.Tensor:
    """Returns the share, float32 [], 0 to 1, that an average keeps of itself.

    It grows with the step, (1 + step) / (10 + step), until it is `decay`: so
    the start is soon forgotten, as in
    `tf.train.ExponentialMovingAverage(num_updates=step)`.
    """
    t = tf.cast(step, tf.float32)
    return tf.minimum(decay, (1 + t) / (10 + t))


def ema_update(
    average: tf.Variable, value: tf.Tensor, *, kept: tf.Tensor
) -> None:
    """Moves an average towards a value, in place; see `ema_kept`."""
    average.assign_sub((1 - kept) * (average - value))
