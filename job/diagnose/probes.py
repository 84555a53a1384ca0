"""Checks that take some training steps, at batch 32 and 40 steps at most.

A probe is told how to make a step and returns what it saw; a check judges it.
So the checks need no model, and other programs can bring a step of their own.

    losses = overfit(train_step, rate=0.1, steps=40, seconds=20)
    check_learning(losses, batch_norm=False, ...)
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job.augment import Augment
from job.data.pipeline import TrainBatch
from job.diagnose import costs
from job.diagnose.finding import Finding
from job.output.plotting import plt

_Array = npt.NDArray

# (learning rate) -> loss of the next batch before the update.
TrainStep = Callable[[float], float]

BATCH = 32
STEPS = 40
# After so many, a loss that has not moved at all says enough.
_FEWEST_STEPS = 10

# A loss so near to chance has learnt nothing: guessing the ten classes of one
# batch by its own frequencies gives .02.
_STUCK = 0.05
# Below that fraction of the loss of guessing, one batch counts as learnt; and
# then no further step is needed.
_LEARNT = 0.5
_BY_HEART = 0.1
# A first loss that is so many times that of guessing is not noise.
_FIRST_LOSS = 4.0
# Share of units without any answer, of one layer, from which it is dead.
_DEAD = 0.9
# A test of speed on a machine that does other things scatters by so much.
_SLOWER = 1.25
# Fall of the smoothed loss that counts as one.
_FALL = 0.3
# The loss has exploded where it is above the first one by so many times that of
# guessing. Less may be the start of a momentum that a warm-up would have tamed.
_RISE = 2.0


# When counting began: see `clock`.
_WALL, _WORK = time.perf_counter(), time.process_time()


def clock() -> float:
    """Returns seconds of work, as 2 quiet CPU cores would need for it.

    A quarter of the seconds that have passed at least: so a busy machine,
    where a run is going on say, takes longer and gives the same answers.
    """
    work = (time.process_time() - _WORK) / 2
    return max(work, (time.perf_counter() - _WALL) / 4)


def guessing_loss(num_classes: int) -> float:
    """Returns the cross-entropy of a uniform guess, in nats."""
    return math.log(num_classes)


def overfit(
    train_step: TrainStep, *, rate: float, steps: int, seconds: float
) -> list[float]:
    """Trains on one batch; returns the losses, each before its update.

    It ends early where the batch is known by heart, or a loss is not finite.

    Args:
      train_step: makes a step on always the same batch.
      rate: learning rate.
      steps: at most.
      seconds: after which no further step is begun, by `clock`; the first
        step may compile.
    """
    losses = []
    for _, loss in _steps(train_step, [rate] * steps, seconds):
        losses.append(loss)
        if loss < _BY_HEART:
            break
    return losses


def is_conclusive(losses: Sequence[float], num_classes: int = 10) -> bool:
    """Returns whether `overfit` got far enough for `check_learning`."""
    chance = guessing_loss(num_classes)
    unmoved = len(losses) >= _FEWEST_STEPS and _is_stuck(losses, chance)
    return (
        len(losses) >= STEPS
        or unmoved
        or not math.isfinite(losses[-1])
        or losses[-1] < _LEARNT * chance
    )


def _is_stuck(losses: Sequence[float], chance: float) -> bool:
    return min(losses[-5:]) > chance - _STUCK


def range_test(
    train_step: TrainStep,
    *,
    rates: Sequence[float],
    seconds: float,
    num_classes: int = 10,
) -> list[tuple[float, float]]:
    """Trains with a rate that climbs; returns (rate, loss) pairs.

    Smith 2017, arXiv:1506.01186, on one batch: a few steps on new ones would
    show how batches differ. It ends where the loss has exploded.

    Args:
      train_step: makes a step on always the same batch.
      rates: ascending.
      seconds: after which no further step is begun, by `clock`; the first
        step may compile.
      num_classes: Number of classes.
    """
    pairs: list[tuple[float, float]] = []
    for pair in _steps(train_step, rates, seconds):
        pairs.append(pair)
        if read_range(pairs, num_classes).breaks is not None:
            break
    return pairs


def _steps(
    train_step: TrainStep, rates: Sequence[float], seconds: float
) -> Iterator[tuple[float, float]]:
    end = clock() + seconds
    for rate in rates:
        loss = train_step(rate)
        yield rate, loss
        if not math.isfinite(loss) or clock() > end:
            return


def check_first_loss(loss: float, num_classes: int = 10) -> Finding | None:
    """Compares the loss before the first step with that of guessing."""
    chance = guessing_loss(num_classes)
    if loss <= _FIRST_LOSS * chance:
        return None
    return Finding(
        "first_loss",
        "the network starts far from guessing",
        f"first loss {loss:.2f}; guessing gives ln {num_classes} ="
        f" {chance:.3f}",
        costs.FIRST_LOSS,
        ("--config.model.init=he_fan_out --config.model.preprocessing=auto",),
    )


def check_learning(
    losses: Sequence[float],
    *,
    batch_norm: bool,
    rate: float,
    peak_learning_rate: float,
    images: int,
    num_classes: int = 10,
) -> Finding | None:
    """Says whether a network can learn one batch by heart.

    Args:
      losses: what `overfit` returned; see `is_conclusive`.
      batch_norm: whether the network has it.
      rate: that was trained with.
      peak_learning_rate: of the run, for its own batch.
      images: in the batch.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    seen = (
        f"loss {losses[0]:.3f} before and {losses[-1]:.3f} after"
        f" {len(losses) - 1} steps on the same {images} images (rate {rate:g});"
        f" guessing gives ln {num_classes} = {chance:.3f}"
    )
    if not math.isfinite(losses[-1]):
        return Finding(
            "overfit_one_batch",
            "it diverges on one batch",
            seen,
            costs.DIVERGED,
            (
                "--config.optimizer.peak_learning_rate="
                f"{peak_learning_rate / 10:.2g}",
            ),
        )
    if _is_stuck(losses, chance):
        mend = "--config.model.init=he_fan_out"
        if not batch_norm:
            mend = f"--config.model.batch_norm=true {mend}"
        return Finding(
            "stuck_at_chance",
            f"it does not learn: the loss stays at ln {num_classes}"
            + ("" if batch_norm else ", without batch normalization"),
            seen,
            costs.STUCK,
            (mend,),
        )
    if min(losses[-5:]) > _LEARNT * chance:
        return Finding(
            "overfit_one_batch",
            "it cannot learn one batch by heart",
            seen,
            costs.OVERFIT_ONE_BATCH,
            (
                "see the other findings; then the labels, the rate and whether"
                " the layers train at all",
            ),
        )
    return None


@dataclasses.dataclass(frozen=True)
class Range:
    """What a range test says.

    Attributes:
      rates: that were tried, ascending.
      losses: of each of them.
      smooth: the losses, smoothed.
      best: the rate at which the smoothed loss fell fastest; None: it never
        fell.
      breaks: the first rate at which the loss had exploded; None: none.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    best: float | None
    breaks: float | None


def read_range(
    pairs: Sequence[tuple[float, float]], num_classes: int = 10
) -> Range:
    """Finds where the loss falls and where it explodes.

    Args:
      pairs: what `range_test` returned.
      num_classes: Number of classes.
    """
    rise = _RISE * guessing_loss(num_classes)
    smooth: list[float] = []
    breaks = None
    kept = 0.0
    for count, (rate, loss) in enumerate(pairs, start=1):
        if not math.isfinite(loss):
            breaks = rate
            break
        # An exponential mean, corrected for its start at 0.
        kept = 0.7 * kept + 0.3 * loss
        smooth.append(kept / (1 - 0.7**count))
        if smooth[-1] > smooth[0] + rise:
            breaks = rate
            break
    rates = tuple(rate for rate, _ in pairs)
    best = None
    if smooth and min(smooth) < smooth[0] - _FALL:
        until = int(np.argmin(smooth))
        best = rates[int(np.argmin(np.diff(smooth[: until + 1])))]
    return Range(
        rates, tuple(loss for _, loss in pairs), tuple(smooth), best, breaks
    )


def check_range(
    found: Range,
    *,
    rate: float,
    peak_learning_rate: float,
    learnt: bool,
    images: int,
    picture: str = "",
) -> Finding | None:
    """Says whether it is for its rate that a network does not learn.

    Args:
      found: what `read_range` returned.
      rate: of the run, for the batch of the test.
      peak_learning_rate: of the run, for its own batch.
      learnt: whether one batch could be learnt at that rate: then it will do.
      images: in the batch.
      picture: the file in which it is drawn; "": it is not.
    """
    if learnt or found.best is None:
        return None
    ratio = found.best / rate
    side = "low" if ratio > 1 else "high"
    return Finding(
        "range_test",
        f"the learning rate is too {side}",
        f"at the run's rate, {rate:.2g} for a batch of {images}, one batch is"
        f" not learnt; its loss falls fastest at {found.best:.2g}"
        + (f"; see {picture}" if picture else ""),
        costs.RATE_TOO_LOW if ratio > 1 else costs.RATE_TOO_HIGH,
        (
            "--config.optimizer.peak_learning_rate="
            f"{peak_learning_rate * ratio:.2g}",
        ),
    )


def draw_range(
    found: Range,
    path: pathlib.Path,
    *,
    rate: float,
    images: int,
    num_classes: int = 10,
) -> None:
    """Draws the loss over the rate, and where the run's rate lies.

    Args:
      found: what `read_range` returned.
      path: of the picture.
      rate: of the run, for the batch of the test.
      images: in the batch.
      num_classes: Number of classes.
    """
    chance = guessing_loss(num_classes)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    count = len(found.smooth)
    axes.plot(found.rates[:count], found.losses[:count], ".", color="#999999")
    axes.plot(found.rates[:count], found.smooth, color="#0072B2", label="loss")
    axes.axhline(
        chance, color="#000000", linestyle=":", label=f"ln {num_classes}"
    )
    axes.axvline(rate, color="#009E73", label="the run's rate")
    if found.breaks is not None:
        axes.axvline(
            found.breaks, color="#D55E00", linestyle="--", label="explodes"
        )
    axes.set_xscale("log")
    # What explodes would press all else into a line.
    axes.set_ylim(0, 2 * max(chance, found.losses[0]))
    axes.set_xlabel(f"learning rate at a batch of {images}")
    axes.set_ylabel("training loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def dead_shares(
    model: Callable[[Any], Any], layers: Sequence[keras.Layer], images: Any
) -> dict[str, float]:
    """Returns of each layer the share of units that answer to no image.

    Args:
      model: is called with the images, and calls the layers.
      layers: whose outputs end in ReLU.
      images: a batch, as the model takes it.
    """
    shares = {}
    with outputs_of(layers) as outputs:
        model(images)
    for name, output in outputs.items():
        units = np.asarray(output, np.float32).reshape(-1, output.shape[-1])
        shares[name] = float((units.max(axis=0) <= 0).mean())
    return shares


@contextlib.contextmanager
def outputs_of(layers: Sequence[keras.Layer]) -> Iterator[dict[str, Any]]:
    """Keeps what layers return, those inside other models too."""
    kept: dict[str, Any] = {}
    calls = {layer: layer.call for layer in layers}

    def keep(layer: keras.Layer) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            kept[layer.name] = calls[layer](*args, **kwargs)
            return kept[layer.name]

        return call

    for layer in layers:
        layer.call = keep(layer)
    try:
        yield kept
    finally:
        for layer in layers:
            layer.call = calls[layer]


def flat_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns a model's layers, those of models within it too, once each."""
    found: list[keras.Layer] = []
    for layer in model.layers:
        inner = flat_layers(layer) if hasattr(layer, "layers") else [layer]
        found.extend(layer for layer in inner if layer not in found)
    return found


def relu_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers that end in ReLU."""
    relu = (keras.activations.relu, tf.nn.relu)
    return [
        layer
        for layer in flat_layers(model)
        if isinstance(layer, keras.layers.ReLU)
        or getattr(layer, "activation", None) in relu
    ]


def check_dead_relus(shares: dict[str, float], images: int) -> Finding | None:
    """Looks for layers that pass next to nothing.

    Args:
      shares: what `dead_shares` returned.
      images: that were looked at.
    """
    dead = {name: share for name, share in shares.items() if share >= _DEAD}
    if not dead:
        return None
    worst = max(dead, key=lambda name: dead[name])
    return Finding(
        "dead_relus",
        "layers are dead: their ReLUs answer to no image",
        f"{dead[worst]:.0%} of {worst}'s units are 0 for all of {images}"
        f" images; {len(dead)} of {len(shares)} layers are dead by"
        f" {_DEAD:.0%} or more",
        costs.DEAD_RELUS,
        (
            "--config.model.batch_norm=true --config.model.init=he_fan_out, or"
            " a smaller --config.optimizer.peak_learning_rate",
        ),
    )


def check_precision(
    seconds: dict[str, float], *, precision: str, images: int
) -> Finding | None:
    """Looks for a reduced precision that is slower than float32.

    Args:
      seconds: of a step, least of some, by precision; with float32.
      precision: that the run asks for.
      images: in the batch.
    """
    slower = seconds[precision] / seconds["float32"]
    if slower < _SLOWER:
        return None
    return Finding(
        "precision",
        f"{precision} is slower than float32 here",
        f"a step of {images} images takes {1e3 * seconds[precision]:.0f} ms in"
        f" {precision} and {1e3 * seconds['float32']:.0f} ms in float32,"
        f" {slower:.1f} times as long",
        costs.SLOW_PRECISION,
        ("--config.precision=float32",),
    )


def check_loss_scaling(*, precision: str, scaled: bool) -> Finding | None:
    """Looks for float16 whose small gradients become 0.

    Args:
      precision: of the gradients.
      scaled: the loss is multiplied by something large before, and the
        gradients divided by it (Micikevicius et al. 2018, arXiv:1710.03740).
    """
    if precision != "float16" or scaled:
        return None
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    return Finding(
        "loss_scaling",
        "float16 without loss scaling",
        f"gradients below {smallest:.0e} become 0",
        costs.LOSS_SCALING,
        (
            "optimizer.scale_loss(loss) in a loop of one's own, with"
            " keras.optimizers.LossScaleOptimizer; or bfloat16, which needs"
            " none",
        ),
    )


def check_replica_augmentation(
    augment: Augment, images: _Array, *, by_image_only: bool
) -> Finding | None:
    """Shows two replicas the same images, which they should change otherwise.

    Args:
      augment: of a run with two replicas of so many images.
      images: uint8 [b, 32, 32, 3].
      by_image_only: the change depends on image and epoch alone, so that it is
        the same everywhere and should be.
    """
    if by_image_only:
        return None
    count = len(images)
    rows = tf.range(count)
    batch = TrainBatch(
        image=tf.constant(images),
        label=tf.zeros([count], tf.int32),
        index=rows,
        epoch=tf.zeros([count], tf.int32),
    )
    step = tf.constant(0, tf.int64)
    first, second = (
        augment(batch, step, tf.constant(replica)).image.numpy()
        for replica in (0, 1)
    )
    same = int(np.sum(np.all(first == second, axis=(1, 2, 3))))
    changed = int(np.sum(np.any(first != images, axis=(1, 2, 3))))
    # Chance may leave an image or two as they are.
    if not changed or same < 0.9 * count:
        return None
    return Finding(
        "replica_augmentation",
        "all replicas see the same augmentation",
        f"{same} of {count} images came out equal on two replicas, and"
        f" {changed} of them were changed",
        costs.REPLICA_AUGMENTATION,
        ("key the draws by position in the global batch, or by replica",),
    )
