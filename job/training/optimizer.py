"""Learning rate schedule, SGD, Muon, Adam and averaging of the weights.

The functions take tensors. `state` has the variables, and `update` the order.

    learning_rate = create_learning_rate_fn(peak=0.4, ...)
    learning_rate(step)                     # float32 []
    sgd_update(weight, momentum_buffer, gradient, ...)
"""

import math
from collections.abc import Callable

import tensorflow as tf

from job.model import flops

LearningRateFn = Callable[[tf.Tensor], tf.Tensor]


def create_learning_rate_fn(
    *, peak: float, schedule: str, train_steps: int, warmup_steps: int
) -> LearningRateFn:
    """Returns the learning rate as a function of the step.

    Args:
      peak: Learning rate at the end of the warm-up.
      schedule: Decay after the warm-up: constant, linear (to 0), or cosine
        (half a wave to 0; Loshchilov & Hutter 2017, arXiv:1608.03983).
      train_steps: Number of steps of the run. After the last one the learning
        rate is 0, except with the constant schedule.
      warmup_steps: Number of steps of linear warm-up. The first one has the
        learning rate peak / warmup_steps.

    Returns:
      Function from a step, int64 [], from 0, to a learning rate, float32 [].
    """
    warmup_steps = min(warmup_steps, train_steps)

    def learning_rate(step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warmup = (step + 1) / max(1, warmup_steps)
        remaining = (train_steps - step) / max(1, train_steps - warmup_steps)
        remaining = tf.clip_by_value(remaining, 0.0, 1.0)
        if schedule == "linear":
            factor = remaining
        elif schedule == "cosine":
            factor = 0.5 - 0.5 * tf.cos(math.pi * remaining)
        else:
            factor = tf.ones_like(remaining)
        return peak * tf.where(step < warmup_steps, warmup, factor)

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
    """Updates a weight by SGD with Nesterov momentum and coupled weight decay.

    The update is that of `torch.optim.SGD(nesterov=True)`:

        g = gradient + weight_decay * w
        buffer = momentum * buffer + g
        w -= learning_rate * (g + momentum * buffer)

    Args:
      weight: Weight to update, float32, any shape.
      momentum_buffer: Momentum buffer, float32, of the same shape, initially
        zeros.
      gradient: Gradient, float32, of the same shape.
      learning_rate: Learning rate, float32 [].
      momentum: Momentum, from 0 to below 1. If 0.0, plain SGD.
      weight_decay: Coefficient of the weight that is added to the gradient.
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


def orthogonalize(matrix: tf.Tensor) -> tf.Tensor:
    """Returns a matrix with the same singular vectors and values near 1.

    The Newton-Schulz iteration needs matrix products only (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon). Singular values of at least 0.02 times
    the norm of the matrix end between 0.65 and 1.25.

    Args:
      matrix: Matrix, float32, [m, n].

    Returns:
      Matrix of the same type and shape.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = tf.transpose(matrix) if is_tall else matrix
    x /= tf.norm(x) + 1e-7  # No singular value is above 1.
    # An iteration multiplies x by a polynomial of gram = x x^T. All of these
    # commute, so the iterations need only the small gram, and x is multiplied
    # once, by their product. This halves the operations.
    gram = tf.linalg.matmul(x, x, transpose_b=True)
    polynomial = product = _newton_schulz(gram)
    for _ in range(flops.NEWTON_SCHULZ_STEPS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _newton_schulz(gram)
        product = polynomial @ product
    x = product @ x
    return tf.transpose(x) if is_tall else x


def _newton_schulz(gram: tf.Tensor) -> tf.Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315
    return a * tf.eye(gram.shape[0]) + b * gram + c * (gram @ gram)


def muon_direction(
    momentum_buffer: tf.Tensor, gradient: tf.Tensor, *, momentum: float
) -> tf.Tensor:
    """Returns the direction of `muon_update`, float32, [h, w, c, f].

    Args:
      momentum_buffer: Momentum buffer before the step, float32, [h, w, c, f].
      gradient: Gradient, float32, of the same shape.
      momentum: Momentum, from 0 to below 1.
    """
    buffer = momentum * momentum_buffer + gradient
    matrix = tf.reshape(gradient + momentum * buffer, [-1, gradient.shape[-1]])
    return tf.reshape(orthogonalize(matrix), gradient.shape)


def muon_update(
    kernel: tf.Variable,
    momentum_buffer: tf.Variable,
    gradient: tf.Tensor,
    direction: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: float,
) -> None:
    """Updates a kernel by Muon, SGD with Nesterov momentum, orthogonalized.

    The update is that of airbench94_muon.py (Jordan 2024,
    github.com/KellerJordan/cifar10-airbench), in float32. Batch normalization
    makes the norm of a kernel irrelevant, so it is kept at sqrt(f), without
    weight decay:

        buffer = momentum * buffer + gradient
        direction = orthogonalize(gradient + momentum * buffer)
        k *= sqrt(f) / norm(k)
        k -= learning_rate * direction

    Args:
      kernel: Kernel of a convolution, float32, [h, w, c, f].
      momentum_buffer: Momentum buffer, float32, of the same shape, initially
        zeros.
      gradient: Gradient, float32, of the same shape.
      direction: Result of `muon_direction` for both. Its norm is about that of
        the kernel.
      learning_rate: Learning rate, float32 [].
      momentum: Momentum, from 0 to below 1.
    """
    momentum_buffer.assign(momentum * momentum_buffer + gradient)
    filters = float(kernel.shape[-1])
    kept = kernel * (tf.sqrt(filters) / tf.norm(kernel))
    kernel.assign(kept - learning_rate * direction)


# Default values of Keras and of the paper.
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
    """Updates a weight by Adam (Kingma & Ba 2015, arXiv:1412.6980).

    Weight decay is decoupled (AdamW; Loshchilov & Hutter 2019,
    arXiv:1711.05101). It subtracts learning_rate * weight_decay * w in addition
    to the step of Adam.

    Args:
      weight: Weight to update, float32, any shape.
      first_moment: First moment, float32, of the same shape, initially zeros.
      second_moment: Second moment, float32, of the same shape, initially zeros.
      gradient: Gradient, float32, of the same shape.
      learning_rate: Learning rate, float32 [].
      momentum: Beta 1, from 0 to below 1. Beta 2 is `ADAM_BETA_2`.
      weight_decay: Coefficient of the weight that is subtracted, times the
        learning rate.
      step: Number of earlier steps of this weight, int64 [], for the bias
        correction of the moments. It includes steps that float16 skipped.
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


def ema_decay(step: tf.Tensor, *, decay: float) -> tf.Tensor:
    """Returns the decay of an average at a step, with warm-up.

    It is (1 + step) / (10 + step) until it reaches `decay`, as in
    `tf.train.ExponentialMovingAverage(num_updates=step)`. The initial weights
    thus lose their influence quickly.

    Args:
      step: Step, int64 [], from 0.
      decay: Final decay, from 0 to below 1.

    Returns:
      Decay, float32 [], 0 to 1.
    """
    t = tf.cast(step, tf.float32)
    return tf.minimum(decay, (1 + t) / (10 + t))


def ema_update(
    average: tf.Variable, value: tf.Tensor, *, decay: tf.Tensor
) -> None:
    """Updates an exponential moving average in place.

    Args:
      average: Average, float32, any shape.
      value: New value, float32, of the same shape.
      decay: Fraction of the average that is kept, float32 []; see `ema_decay`.
    """
    average.assign_sub((1 - decay) * (average - value))
