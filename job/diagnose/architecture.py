"""Checks of a network by its description: normalization, head, frozen base.

    check_large_head(head_units=(4096, 4096), input_size=32, ...)

They need neither TensorFlow nor data.
"""

import math
from collections.abc import Sequence

from job.diagnose import costs
from job.diagnose.finding import Finding, mistake
from job.model.spec import kernel_shapes

# Images per replica below which batch statistics are noise (Wu & He 2018,
# arXiv:1803.08494).
_SMALL_BATCH = 16

# Momentum of the moving statistics above which a short run may end before they
# have converged, and the number of time constants that convergence takes.
_FAST_MOMENTUM = 0.9
_TIME_CONSTANTS = 10


def check_batch_norm(
    *, batch_norm: bool, pretrained: bool, learns: bool | None, rate: float
) -> Finding | None:
    """Looks for a deep network that is trained without batch normalization.

    Args:
      batch_norm: Whether the network has batch normalization.
      pretrained: Whether it starts from weights that were trained without.
      learns: Whether a probe learned one batch; see `probes.check_learning`.
        None if no probe was run.
      rate: Usual learning rate with batch normalization.
    """
    if batch_norm or pretrained:
        return None
    seen = {
        True: "a probe learned one batch at some learning rate",
        False: "a probe did not learn one batch",
        None: "no probe was run",
    }
    return mistake(
        "no_batch_norm",
        f"0 normalization layers after 13 convolutions; {seen[learns]}",
        flags=(
            "--config.model.batch_norm=true",
            f"--config.optimizer.peak_learning_rate={rate:g}",
        ),
    )


def check_replica_batch(
    *,
    batch_norm: bool,
    synchronized: bool,
    global_batch_size: int,
    replicas: int,
) -> Finding | None:
    """Looks for batch statistics over too few images.

    Args:
      batch_norm: Whether the network has batch normalization.
      synchronized: Whether the statistics are computed over all replicas.
      global_batch_size: Number of images per step.
      replicas: Number of replicas that share them.
    """
    size = global_batch_size // (1 if synchronized else replicas)
    if not batch_norm or size >= _SMALL_BATCH:
        return None
    flag = f"--config.global_batch_size={2 * _SMALL_BATCH * replicas}"
    return mistake(
        "replica_batch",
        f"{size} images share their statistics ({global_batch_size} per step,"
        f" {replicas} replicas); below {_SMALL_BATCH} these are noise",
        fix=flag + " or --config.distribute.sync_batch_norm=true"
        if replicas > 1
        else "",
        flags=(flag,),
    )


def check_batch_norm_momentum(
    *, batch_norm: bool, momentum: float, steps: int
) -> Finding | None:
    """Looks for moving statistics that cannot converge within the run.

    Args:
      batch_norm: Whether the network has batch normalization.
      momentum: Momentum of the moving mean and variance, 0 to 1.
      steps: Number of steps of the run.
    """
    time_constants = steps * (1 - momentum)
    if (
        not batch_norm
        or momentum <= _FAST_MOMENTUM
        or time_constants >= _TIME_CONSTANTS
    ):
        return None
    return mistake(
        "batch_norm_momentum",
        f"momentum {momentum:g} over {steps} steps: {time_constants:.1f} time"
        f" constants of the {_TIME_CONSTANTS} needed; {momentum**steps:.0%} of"
        " the statistics are still the initial ones",
        flags=(f"--config.model.batch_norm_momentum={_FAST_MOMENTUM}",),
    )


def check_large_head(
    *,
    head_units: Sequence[int],
    input_size: int,
    width: float,
    flatten: bool,
    num_classes: int,
) -> Finding | None:
    """Looks for dense layers with more weights than all convolutions.

    Args:
      head_units: Units of each dense layer before the logits.
      input_size: Height and width of the images, in pixels.
      width: Multiplier of the convolutions' filters.
      flatten: Whether the last feature map is flattened, not averaged.
      num_classes: Number of classes.
    """
    shapes = [*kernel_shapes(width=width).values()]
    convolutions = sum(math.prod(shape) for shape in shapes)
    size = input_size // 32 if flatten else 1
    head, features = 0, size * size * shapes[-1][-1]
    for units in (*head_units, num_classes):
        head += features * units
        features = units
    if head <= convolutions:
        return None
    return mistake(
        "large_head",
        f"{head / 1e6:.1f} million in the head, {convolutions / 1e6:.1f}"
        f" million in the convolutions, on a feature map of {size} x {size}",
        flags=(
            "--config.model.head_units=()",
            "--config.model.dropout=0",
            "--config.model.head_pooling=avg",
        ),
    )


def check_frozen_base(*, input_size: int, frozen: bool) -> Finding | None:
    """Looks for a base none of whose convolutions train.

    Args:
      input_size: Height and width of the images, in pixels.
      frozen: Whether all convolutions stay frozen.
    """
    if not frozen:
        return None
    size = input_size // 32
    return mistake(
        "frozen_base",
        f"0 of 13 convolutions train; at {input_size} pixels the last feature"
        f" map is {size} x {size}",
        cost=costs.frozen_base(input_size),
        flags=("--config=configs/transfer.py",),
    )


def check_preprocessing(
    *, preprocessing: str, pretrained: bool
) -> Finding | None:
    """Looks for ImageNet's weights on pixels of another scale.

    Args:
      preprocessing: Preprocessing of the network.
      pretrained: Whether the weights are ImageNet's VGG16 of
        keras.applications. It was trained on BGR, 0 to 255, minus ImageNet's
        mean.
    """
    if not pretrained or preprocessing == "caffe":
        return None
    return mistake(
        "preprocessing",
        f"preprocessing {preprocessing}; the weights expect BGR from 0 to 255"
        " less ImageNet's mean",
        cost=costs.PREPROCESSING,
        flags=("--config.model.preprocessing=auto",),
    )
