"""Checks of the accuracies of a run's newest checkpoint.

    check_checkpoint(builder, config, plan, data, workdir, lines)

The checkpoints are not changed, because the run may still be in progress.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import ml_collections
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from job import build, errors
from job.checkpoint import store
from job.data.dataset import Dataset, Split
from job.diagnose import budget, costs, from_run
from job.diagnose.finding import Finding
from job.diagnose.report_builder import ReportBuilder
from job.diagnose.settings import Settings
from job.model import batches
from job.storage.workdir import Workdir
from job.training import resume
from job.training.state import load_evaluated

_CHECKS = ("memorized", "underfit", "running_moments")

# Number of images of each split for the accuracies.
_IMAGES = 1000
# Batch size for images of 32 px, and the smallest batch of larger images.
_BATCH, _MIN_BATCH = 250, 8
# Momentum up to which the moving statistics follow the weights closely.
_FAST_MOMENTUM = 0.9

# Number of images from which an accuracy supports a finding.
_ENOUGH = 250

# (images, batch statistics instead of moving ones) -> whether each image is
# classified correctly, bool [n], for as many images as the time budget allows.
Score = Callable[[Split, bool], npt.NDArray]


def check_checkpoint(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    run: Settings,
    data: Dataset,
    workdir: Workdir,
    lines: Sequence[Mapping[str, Any]],
) -> None:
    """Compares the accuracies on training and test images.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      run: Settings of the run.
      data: Data set of the run.
      workdir: Workdir of the run.
      lines: Complete lines of metrics.jsonl.
    """
    try:
        loaded = _load_newest(config, workdir, data.num_classes)
    except (errors.ResumeError, errors.StorageError, KeyError) as error:
        builder.skip(f"no checkpoint can be read: {error}", *_CHECKS)
        return
    if loaded is None:
        builder.skip("the run has no checkpoint yet", *_CHECKS)
        return
    step, network = loaded
    batch_size = batches.batch_size_for(
        config.model.input_size, _BATCH, at_least=_MIN_BATCH
    )
    score = _make_score(config, network, batch_size, builder)
    rng = np.random.default_rng(0)
    train_images = _sample(data.train, rng)
    test_images = _sample(data.test, rng)
    train, test = score(train_images, False), score(test_images, False)
    wanted = min(_ENOUGH, len(train_images), len(test_images))
    if min(len(train), len(test)) < wanted:
        builder.skip(
            f"only {min(len(train), len(test))} images could be classified in"
            " the time limit",
            *_CHECKS,
        )
        return
    scores = from_run.Scores(step, float(train.mean()), float(test.mean()))
    builder.add("memorized", from_run.check_gap(run, scores))
    builder.summary = (
        f"The accuracy is {100 * scores.test:.1f}% on {len(test):,}"
        f" other images and {100 * scores.train:.1f}% on"
        f" {len(train):,} training images after {step:,} of"
        f" {run.train_steps:,} steps."
    )
    if not run.is_synthetic:
        epochs = run.full_epochs_of(step)
        expected = costs.expected_accuracy(config.model.width, epochs)
        builder.summary += (
            f" This budget is {epochs:.2g} epochs of all 50,000 images."
            f" Measured for comparison: {expected}."
        )
    if step >= from_run.LATE * run.train_steps:
        underfit = from_run.check_underfit(run, scores, lines)
        builder.add("underfit", underfit)
        heavy = from_run.check_over_augmented(run, scores)
        builder.add("over_augmentation", heavy)
    if config.model.batch_norm:
        batch = _sample(data.test, rng).take(
            np.arange(min(batch_size, len(data.test)))
        )
        builder.add("running_moments", _check_moments(config, score, batch))


def check_images(workdir: Workdir, data: Dataset) -> None:
    """Checks that the loaded images are those of the newest checkpoint.

    `check_checkpoint` reports storage errors.

    Args:
      workdir: Workdir of the run, with or without a checkpoint.
      data: Data set that the config names.

    Raises:
      ResumeError: The run was trained on other images.
    """
    with contextlib.suppress(errors.StorageError):
        newest = store.CheckpointStore(workdir.checkpoints).newest_header()
        if newest:
            resume.check_images(newest, data.checksum())


def _load_newest(
    config: ml_collections.ConfigDict, workdir: Workdir, num_classes: int
) -> tuple[int, keras.Model] | None:
    """Returns the step and the evaluated network of the newest checkpoint."""
    checkpoints = store.CheckpointStore(workdir.checkpoints)
    newest = checkpoints.restore_newest(set_aside=False)
    if newest is None:
        return None
    saved, tensors = newest
    network = build.create_model(config, "float32", num_classes=num_classes)
    load_evaluated(network, tensors)
    return saved.step, network


def _make_score(
    config: ml_collections.ConfigDict,
    network: keras.Model,
    batch_size: int,
    builder: ReportBuilder,
) -> Score:
    """Returns the function that classifies images, within the budget."""
    resize = build.create_resize(config)

    @tf.function(autograph=False, reduce_retracing=True)
    def predict(images: tf.Tensor, training: bool) -> tf.Tensor:
        logits, _ = network(resize(images), training=training)
        return tf.argmax(logits, axis=-1)

    def score(split: Split, training: bool) -> npt.NDArray:
        end = budget.clock() + builder.remaining_seconds()
        correct = []
        for first in range(0, len(split), batch_size):
            rows = slice(first, first + batch_size)
            classes = predict(tf.constant(split.images[rows]), training)
            correct.append(classes.numpy() == split.labels[rows])
            if budget.clock() > end:
                break
        return np.concatenate(correct)

    return score


def _sample(split: Split, rng: np.random.Generator) -> Split:
    return split.take(rng.permutation(len(split))[:_IMAGES])


def _check_moments(
    config: ml_collections.ConfigDict, score: Score, batch: Split
) -> Finding | None:
    found = from_run.check_running_moments(
        by_batch=float(score(batch, True).mean()),
        by_running=float(score(batch, False).mean()),
        images=len(batch),
    )
    if found is None:
        return None
    flags: tuple[str, ...] = ()
    if config.model.batch_norm_momentum > _FAST_MOMENTUM:
        flags = ("--config.model.batch_norm_momentum=0.9",)
    # The default fix is for user code that calls the layers.
    return dataclasses.replace(found, fix="train for more steps", flags=flags)
