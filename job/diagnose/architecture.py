"""Checks of a network's normalization, head and frozen base.

    check_large_head(settings)

The checks need neither TensorFlow nor data.
"""

import math

from job.diagnose import costs, recipe
from job.diagnose.finding import Finding, mistake
from job.diagnose.settings import Settings
from job.model.spec import kernel_shapes

# Images per replica below which batch statistics are noise (Wu & He 2018,
# arXiv:1803.08494).
_SMALL_BATCH = 16

# Momentum above which the moving statistics may not converge in a short run,
# and the number of time constants until convergence.
_FAST_MOMENTUM = 0.9
_TIME_CONSTANTS = 10


def check_batch_norm(run: Settings) -> Finding | None:
    """Looks for a deep network without batch normalization."""
    if run["model.batch_norm"] or run.is_pretrained:
        return None
    seen = {
        True: "a probe learned one batch at some learning rate",
        False: "a probe did not learn one batch",
        None: "no probe was run",
    }
    rate = recipe.rule_of_thumb(
        optimizer=run["optimizer.name"],
        global_batch_size=run["global_batch_size"],
    )
    return mistake(
        "no_batch_norm",
        f"0 normalization layers after 13 convolutions; {seen[run.learns]}",
        flags=(
            "--config.model.batch_norm=true",
            f"--config.optimizer.peak_learning_rate={rate:g}",
        ),
    )


def check_replica_batch(run: Settings) -> Finding | None:
    """Looks for batch statistics over too few images."""
    batch, replicas = run["global_batch_size"], run.replicas
    size = batch // (1 if run["distribute.sync_batch_norm"] else replicas)
    if not run["model.batch_norm"] or size >= _SMALL_BATCH:
        return None
    flag = f"--config.global_batch_size={2 * _SMALL_BATCH * replicas}"
    return mistake(
        "replica_batch",
        f"{size} images share their statistics ({batch} per step,"
        f" {replicas} replicas); below {_SMALL_BATCH} statistics are noise",
        fix=flag + " or --config.distribute.sync_batch_norm=true"
        if replicas > 1
        else "",
        flags=(flag,),
    )


def check_batch_norm_momentum(run: Settings) -> Finding | None:
    """Looks for moving statistics that cannot converge within the run."""
    momentum, steps = run["model.batch_norm_momentum"], run.train_steps
    time_constants = steps * (1 - momentum)
    if (
        not run["model.batch_norm"]
        or momentum <= _FAST_MOMENTUM
        or time_constants >= _TIME_CONSTANTS
    ):
        return None
    return mistake(
        "batch_norm_momentum",
        f"momentum {momentum:g} over {steps} steps gives {time_constants:.1f}"
        f" of {_TIME_CONSTANTS} time constants; {momentum**steps:.0%} of the"
        " statistics are still the initial ones",
        flags=(f"--config.model.batch_norm_momentum={_FAST_MOMENTUM}",),
    )


def check_large_head(run: Settings) -> Finding | None:
    """Looks for dense layers with more weights than all convolutions."""
    shapes = [*kernel_shapes(width=run["model.width"]).values()]
    convolutions = sum(math.prod(shape) for shape in shapes)
    is_flat = run["model.head_pooling"] == "flatten"
    size = run["model.input_size"] // 32 if is_flat else 1
    head, features = 0, size * size * shapes[-1][-1]
    for units in (*run["model.head_units"], run.num_classes):
        head += features * units
        features = units
    if head <= convolutions:
        return None
    return mistake(
        "large_head",
        f"{head / 1e6:.1f} million in the head, {convolutions / 1e6:.1f}"
        f" million in the convolutions, on a feature map of {size} x {size}",
        cost=costs.LARGE_HEAD,
        flags=(
            "--config.model.head_units=()",
            "--config.model.dropout=0",
            "--config.model.head_pooling=avg",
        ),
    )


def check_frozen_base(run: Settings) -> Finding | None:
    """Looks for a base without trainable convolutions."""
    if not run.is_frozen:
        return None
    input_size = run["model.input_size"]
    size = input_size // 32
    return mistake(
        "frozen_base",
        f"0 of 13 convolutions train; at {input_size} pixels the last feature"
        f" map is {size} x {size}",
        cost=costs.frozen_base(input_size),
        flags=("--config=configs/transfer.py",),
    )


def check_preprocessing(run: Settings) -> Finding | None:
    """Looks for ImageNet's weights on pixels of another scale."""
    if not run.is_pretrained or run.preprocessing == "caffe":
        return None
    return mistake(
        "preprocessing",
        f"preprocessing {run.preprocessing}; the weights expect BGR from 0 to"
        " 255 minus ImageNet's mean",
        cost=costs.PREPROCESSING,
        flags=("--config.model.preprocessing=auto",),
    )
