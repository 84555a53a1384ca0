"""Diagnosis of a config, a run or a .keras file, by all checks.

    report = diagnose(config, None, StopRequest())
    print(report)

The checks are in other modules of this package.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import tensorflow as tf

from job import build, errors
from job.config import serialization
from job.data.dataset import Dataset
from job.diagnose import (
    costs,
    finding,
    from_checkpoint,
    from_config,
    from_data,
    from_network,
    from_run,
    keras_file,
    keras_model,
)
from job.diagnose.finding import Report
from job.diagnose.report_builder import ReportBuilder
from job.diagnose.settings import Settings
from job.distribute import strategy
from job.output import metrics, results
from job.storage import files, reader
from job.storage.workdir import DIAGNOSE, FAILURE, Workdir
from job.supervision.preemption import StopRequest
from job.training.plan import Plan

# Time limit of all probes together, in seconds. The rest of two minutes is for
# TensorFlow's import, the data and the compilation.
_SECONDS = 80.0


def diagnose(
    config: ml_collections.ConfigDict,
    workdir: Workdir | None,
    stop: StopRequest,
    *,
    seconds: float = _SECONDS,
    command: Sequence[str] = (),
) -> Report:
    """Looks for known mistakes in a config, and in its run if one exists.

    The metrics log and the newest checkpoint are read. The run is not changed,
    except for diagnose.json in a local workdir.

    Args:
      config: Checked config of the run, which also names the data.
      workdir: Workdir of the run, or an empty one for the file. If None,
        nothing is written.
      stop: Stop request, polled after each check.
      seconds: Time limit of all probes together in seconds of `budget.clock`.
        Later probes are skipped.
      command: Arguments of the command that trains this config. The report adds
        all fixes to it.

    Raises:
      JobError: The data or the weights cannot be loaded.
      ResumeError: The run was trained on other images.
    """
    builder = ReportBuilder(stop.check, seconds=seconds)
    local = workdir.local if workdir else None
    output = local if workdir and not workdir.mirror else None
    lines = from_run.complete_lines(metrics.read(local)) if local else []
    result = (results.inspect(local).value if local else None) or {}
    strategy.configure_gpus()
    data = build.load_data(config, stop.check)
    if workdir:
        from_checkpoint.check_images(workdir, data)
    plan = build.create_plan(config, len(data.train))
    if output:
        output.mkdir(parents=True, exist_ok=True)
    from_network.check_network(
        builder,
        config,
        plan,
        data.train,
        num_classes=data.num_classes,
        has_run=bool(lines),
    )
    replicas = result.get("replicas") or _num_replicas(config)
    run = _create_settings(builder, config, plan, data, replicas=replicas)
    if not run.is_synthetic:
        expected = costs.expected_accuracy(run["model.width"], run.full_epochs)
        builder.summary = (
            f"The budget is {run.train_steps:,} steps of"
            f" {run['global_batch_size']} images, {run.full_epochs:.2g} epochs"
            f" of all 50,000. Measured for comparison: {expected}."
        )
    for name, found in from_config.check_fields(run).items():
        builder.add(name, found)
    failure = (_read_failure(local) if local else None) or {}
    if workdir and (lines or result or failure):
        check_run(builder, config, run, lines, result, failure, data, workdir)
    if failure:
        builder.summary = f"The run ended early: {failure.get('error')}"
    builder.drop("no_batch_norm", "underfit", where="stuck_at_chance")
    builder.drop("overfit_one_batch", where="no_batch_norm")
    builder.drop("short_run", where="underfit")
    report = builder.report(command)
    if output:
        files.write_json(output / DIAGNOSE, finding.to_json(report))
    return report


def _num_replicas(config: ml_collections.ConfigDict) -> int:
    return config.distribute.logical_devices or max(
        1, len(tf.config.list_physical_devices("GPU"))
    )


def diagnose_model(
    path: pathlib.Path,
    stop: StopRequest,
    *,
    config: ml_collections.ConfigDict | None = None,
    images: pathlib.Path | None = None,
    labels: pathlib.Path | None = None,
) -> Report:
    """Looks for known mistakes in a .keras file.

    Args:
      path: Path of the .keras file.
      stop: Stop request, polled after each check.
      config: Config whose data fields are used. If None, no data set is used.
      images: Path of a .npy file with images for the model.
      labels: Path of a .npy file with their labels.

    Raises:
      DataError: A file is damaged, has another format or refers to foreign
        code, or the arrays are not images and labels.
    """
    strategy.configure_gpus()
    model = keras_file.load(path)
    if images and labels:
        x = from_data.load_array(images, "images")
        y = from_data.load_array(labels, "labels")
        try:
            return keras_model.diagnose(model, x, y, poll=stop.check)
        except ValueError as error:
            flag = f"--images={images}"
            if str(error).startswith("the labels"):
                flag = f"--labels={labels}"
            raise errors.DataError(f"{flag}: {error}") from None
    builder = ReportBuilder(stop.check, seconds=_SECONDS)
    data = build.load_data(config, stop.check) if config else None
    keras_model.check_model(
        builder,
        model,
        data.test if data else None,
        data.train if data else None,
        num_classes=data.num_classes if data else 10,
    )
    if data and data.source != "synthetic":
        _, _, expected = costs.expected_accuracy(0.5, 10).partition(": ")
        builder.facts["comparison"] = (
            "this project's recipe (configs/stem32.py, half of VGG16's width),"
            f" 98 steps of 512 images per epoch: {expected}"
        )
    return builder.report()


def _create_settings(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    plan: Plan,
    data: Dataset,
    *,
    replicas: int,
) -> Settings:
    """Returns the settings of a run, with the results of the probes."""
    stuck = builder.found("stuck_at_chance")
    learns = None
    if builder.found("learning_rate"):
        learns = True  # The network learns at another learning rate.
    elif stuck is not None:
        learns = not (stuck or builder.found("overfit_one_batch"))
    return Settings(
        serialization.flatten(config),
        train_steps=plan.train_steps,
        num_images=len(data.train),
        num_classes=data.num_classes,
        replicas=replicas,
        is_synthetic=data.source == "synthetic",
        preprocessing=build.preprocessing(config),
        learns=learns,
    )


def check_run(
    builder: ReportBuilder,
    config: ml_collections.ConfigDict,
    run: Settings,
    lines: Sequence[Mapping[str, Any]],
    result: dict[str, Any],
    failure: dict[str, Any],
    data: Dataset,
    workdir: Workdir,
) -> None:
    """Runs all checks of the files of a run.

    Args:
      builder: Collector of the findings.
      config: Config of the run.
      run: Settings of the run.
      lines: Complete lines of metrics.jsonl.
      result: Contents of result.json. Empty if the run has not ended.
      failure: Contents of failure.json. Empty if the run did not diverge.
      data: Data set of the run.
      workdir: Workdir of the run.
    """
    stuck = from_run.check_metrics_stuck(lines, num_classes=run.num_classes)
    builder.add("stuck_at_chance", stuck)
    builder.add(
        "diverged", from_run.check_diverged(run, lines, result, failure)
    )
    from_checkpoint.check_checkpoint(builder, config, run, data, workdir, lines)


def _read_failure(workdir: pathlib.Path) -> dict[str, Any] | None:
    path = workdir / FAILURE
    return reader.inspect(lambda: reader.read_json(path, {"error?": str})).value
