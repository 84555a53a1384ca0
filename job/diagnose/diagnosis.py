"""All checks of a config, a run or a Keras model: the table of contents.

    report = diagnose(config, None, StopRequest())
    print(finding.to_text(report))

The checks themselves are in the modules that are called here.
"""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from job import build
from job.augment import make_augment
from job.config import augmentation, serialization
from job.data import pipeline
from job.data.dataset import Dataset
from job.diagnose import (
    finding,
    from_checkpoint,
    from_config,
    from_data,
    from_network,
    from_run,
    keras_file,
    keras_model,
    probes,
    recipe,
)
from job.diagnose.finding import Report
from job.diagnose.report_builder import ReportBuilder
from job.output import metrics
from job.storage import files
from job.storage.workdir import DIAGNOSE, RANGE_TEST, RESULT, Workdir
from job.supervision.preemption import StopRequest
from job.training.plan import Plan

# Seconds of all probes together. The rest of two minutes is for TensorFlow's
# import, the data and the compilation.
_SECONDS = 80.0
# Number of batches whose order is checked.
_SHUFFLED_BATCHES = 20
# Number of images whose preprocessing is checked.
_PREPROCESSED_IMAGES = 500


def diagnose(
    config: ml_collections.ConfigDict,
    workdir: Workdir | None,
    stop: StopRequest,
    *,
    seconds: float = _SECONDS,
) -> Report:
    """Looks for known mistakes in a config, and in its run if there is one.

    A run is left unchanged, whether it has ended or not. Its metrics log and
    its newest checkpoint are read. diagnose.json and range_test.png are written
    beside them, if the workdir is a local directory.

    Args:
      config: Config of the run, checked; it names the data.
      workdir: Workdir of the run, or an empty one for the two files. If None,
        nothing is written.
      stop: Stop request, polled after each check.
      seconds: Seconds of all probes together, by `budget.clock`. Checks that
        exceed them are skipped.

    Raises:
      JobError: The data or the weights cannot be loaded.
    """
    stop.saved = "a diagnosis changes nothing"
    builder = ReportBuilder(stop.check, seconds=seconds)
    local = workdir.local if workdir else None
    output = local if workdir and not workdir.mirror else None
    lines = from_run.complete_lines(metrics.read(local)) if local else []
    result = files.read_json(local / RESULT) if local else None
    result = result if isinstance(result, dict) else {}
    _configure_gpus()
    data = build.load_data(config, stop.check)
    plan = build.create_plan(config, len(data.train))
    check_data(builder, config, data)
    if output:
        output.mkdir(parents=True, exist_ok=True)
    from_network.check_network(
        builder,
        config,
        plan,
        data.train,
        num_classes=data.num_classes,
        plot=output / RANGE_TEST if output else None,
        has_run=bool(lines),
    )
    replicas = result.get("replicas") or _num_replicas(config)
    check_config(builder, config, plan, data, replicas=replicas)
    if workdir and (lines or result):
        check_run(builder, config, plan, lines, result, data, workdir)
    _drop_explained(builder)
    report = builder.report()
    if output:
        files.write_json(output / DIAGNOSE, finding.to_json(report))
    return report


def _configure_gpus() -> None:
    """Sets the GPUs as `strategy.create_strategy` does.

    Memory that grows on demand leaves room for a run on the same GPU.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        # This process may have initialized the GPU, which fixes the setting.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def _num_replicas(config: ml_collections.ConfigDict) -> int:
    return config.distribute.logical_devices or max(
        1, len(tf.config.list_physical_devices("GPU"))
    )


def _drop_explained(builder: ReportBuilder) -> None:
    """Removes findings that another finding explains, or states better."""
    builder.drop("no_batch_norm", where="stuck_at_chance")
    builder.drop("overfit_one_batch", where="no_batch_norm")
    builder.drop("rate_rule", where="range_test")
    if builder.found("range_test") is None:
        # There was no time to see whether the network learns at another rate.
        builder.drop("stuck_at_chance", where="rate_rule")
        builder.drop("overfit_one_batch", where="rate_rule")


def diagnose_model(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    stop: StopRequest,
) -> Report:
    """Looks for known mistakes in a Keras model.

    Args:
      path: Path of the .keras file.
      config: Config that names the data. Its other fields are not used.
      stop: Stop request, polled after each check.

    Raises:
      DataError: The file is not a .keras file, or names code of its author.
    """
    stop.saved = "a diagnosis changes nothing"
    builder = ReportBuilder(stop.check, seconds=_SECONDS)
    _configure_gpus()
    loaded = keras_file.load(path)
    data = build.load_data(config, stop.check)
    checks, facts = keras_model.check_model(
        loaded, data.test, num_classes=data.num_classes
    )
    for name, found in checks.items():
        builder.add(name, found)
    builder.facts.update(facts)
    check_images(builder, data)
    return builder.report()


def check_images(builder: ReportBuilder, data: Dataset) -> None:
    """Checks the labels and the images of a data set.

    Args:
      builder: Collector of the findings.
      data: Data set.
    """
    labels, num_classes = data.train.labels, data.num_classes
    builder.add(
        "labels", from_data.check_labels(labels, num_classes=num_classes)
    )
    builder.add(
        "balance", from_data.check_balance(labels, num_classes=num_classes)
    )
    builder.add("copies", from_data.check_copies(data.train, data.test))


def check_data(
    builder: ReportBuilder, config: ml_collections.ConfigDict, data: Dataset
) -> None:
    """Checks the data of a run, their order, preprocessing and augmentation.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      data: Data set of the run.
    """
    check_images(builder, data)
    batches = pipeline.train_batches(
        data.train,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        first_step=0,
    )
    labels = [b.label.numpy() for b in batches.take(_SHUFFLED_BATCHES)]
    builder.add(
        "shuffling",
        from_data.check_shuffling(
            labels, all_labels=data.train.labels, num_classes=data.num_classes
        ),
    )
    builder.add(
        "preprocessing",
        from_data.check_preprocessing(
            data.train.images[:_PREPROCESSED_IMAGES],
            preprocessing=build.preprocessing(config),
            pretrained=bool(config.model.weights),
        ),
    )
    augment = make_augment(
        build.create_operations(config),
        seed=config.seed,
        num_images=max(len(data.train), probes.BATCH),
        global_batch_size=2 * probes.BATCH,
        num_replicas=2,
    )
    strengths = augmentation.strengths(config.augment.to_dict())
    images = data.train.images[: probes.BATCH]
    builder.add(
        "replica_augmentation",
        from_data.check_replica_augmentation(
            augment,
            np.resize(images, (probes.BATCH, *images.shape[1:])),
            # An alternating flip depends on the image and the epoch alone.
            by_image_only=config.augment.flip == "alternating"
            and not any(strengths.values()),
        ),
    )


def check_config(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    plan: Plan,
    data: Dataset,
    *,
    replicas: int,
) -> None:
    """Checks the fields of a config.

    Args:
      builder: Collector of the findings, with those of the network's probes.
      config: Config of the run.
      plan: Plan of the run.
      data: Data set of the run.
      replicas: Number of replicas that share a batch.
    """
    stuck = builder.found("stuck_at_chance")
    learns = None
    if builder.found("range_test"):
        learns = True  # At another rate.
    elif stuck is not None:
        learns = not (stuck or builder.found("overfit_one_batch"))
    checks = from_config.check_fields(
        serialization.flatten(config),
        train_steps=plan.train_steps,
        num_images=len(data.train),
        replicas=replicas,
        synthetic=data.source == "synthetic",
        learns=learns,
        num_classes=data.num_classes,
    )
    for name, found in checks.items():
        builder.add(name, found)
    # The job scales the loss wherever it computes in float16.
    builder.add(
        "loss_scaling",
        recipe.check_loss_scaling(precision=config.precision, scaled=True),
    )


def check_run(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    plan: Plan,
    lines: Sequence[Mapping[str, Any]],
    result: dict[str, Any],
    data: Dataset,
    workdir: Workdir,
) -> None:
    """Checks the files of a run.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      plan: Plan of the run.
      lines: Complete lines of metrics.jsonl.
      result: Content of result.json. Empty if the run has not ended.
      data: Data set of the run.
      workdir: Workdir of the run.
    """
    builder.add(
        "stuck_at_chance",
        from_run.check_metrics_stuck(lines, num_classes=data.num_classes),
    )
    builder.add("diverged", from_run.check_diverged(lines, result))
    builder.add("best_epoch", from_run.check_best_epoch(lines, result))
    if scores := from_run.describe_scores(lines):
        builder.facts["accuracy"] = scores
    from_checkpoint.check_checkpoint(builder, config, plan, data, workdir)
