"""Resume of a run from its checkpoint, with agreement among the workers."""

import dataclasses
from typing import Any

from absl import logging

from job import errors
from job.checkpoint import store
from job.checkpoint.format import Header
from job.config import resume
from job.distribute.workers import Workers
from job.training.history import History, pop_metrics
from job.training.state import TrainState


def restore_or_initialize(
    checkpoints: store.CheckpointStore,
    state: TrainState,
    fields: dict[str, Any],
    data_crc32c: str,
    *,
    set_aside: bool = True,
) -> History:
    """Restores the newest intact checkpoint into `state` if one exists.

    Args:
      checkpoints: Checkpoints of the run.
      state: Variables of the run, unchanged without a checkpoint.
      fields: Flattened config of this attempt.
      data_crc32c: Checksum of the training images and labels.
      set_aside: Whether to set damaged checkpoints aside.

    Returns:
      The history of the run, or a new one without a checkpoint.

    Raises:
      ResumeError: Checkpoints exist and none is intact, or the newest one
        belongs to another run.
    """
    found = checkpoints.restore_newest(set_aside=set_aside)
    if found is None:
        return History(fields, data_crc32c)
    saved, tensors = found
    if not saved.run.keys() >= History.KEYS:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} lacks the metadata of its"
            " run. Fix: choose another workdir"
        )
    changed = resume.differences(saved.run["config"], fields)
    if changed:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} belongs to another run"
            f" ({'; '.join(changed)}). Fix: choose another workdir, or undo"
            " these changes"
        )
    check_images(saved, data_crc32c)
    metrics_lines = pop_metrics(tensors)
    try:
        state.restore(tensors)
    except ValueError as error:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} does not match the variables"
            f" of this run ({error}). Fix: choose another workdir"
        ) from None
    logging.info("Restored the checkpoint of step %d", saved.step)
    return History(
        fields,
        data_crc32c,
        step=saved.step,
        resumes=saved.run["resumes"] + 1,
        train_seconds=saved.run["train_seconds"],
        compile_seconds=saved.run["compile_seconds"],
        rollbacks=saved.run["rollbacks"],
        starts=saved.run.get("starts", []),
        metrics_lines=metrics_lines,
    )


def check_images(saved: Header, data_crc32c: str) -> None:
    """Checks that the loaded images are those of a checkpoint.

    Args:
      saved: Header of the checkpoint.
      data_crc32c: Checksum of the training images and labels.

    Raises:
      ResumeError: The checkpoint belongs to a run on other images.
    """
    if saved.run.get("data_crc32c", data_crc32c) != data_crc32c:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} belongs to another run (the"
            " training images are not those of config.data). Fix: choose"
            " another workdir, or restore the images. For a data set that"
            " Python code passes, add a data source; see CONTRIBUTING.md"
        )


def restore_on_chief(
    checkpoints: store.CheckpointStore,
    state: TrainState,
    fields: dict[str, Any],
    data_crc32c: str,
    workers: Workers,
    *,
    train_steps: int,
) -> History:
    """Restores the newest checkpoint on the chief and shares its history.

    The variables of the other workers are set later, by
    `TrainState.restore(workers.broadcast_arrays(...))`.

    Args:
      checkpoints: Checkpoints of the run, which only the chief reads.
      state: Variables of the run.
      fields: Flattened config of this attempt.
      data_crc32c: Checksum of the training images and labels.
      workers: Workers of the run.
      train_steps: Number of steps of the run.

    Returns:
      The chief's history.

    Raises:
      ConfigError: This worker has another config or other images.
      ResumeError: No checkpoint is usable, or the newest one is from after the
        end of the run.
    """
    if workers.is_chief:
        history = restore_or_initialize(checkpoints, state, fields, data_crc32c)
    else:
        history = History(fields, data_crc32c)
    chiefs = workers.broadcast_json(dataclasses.asdict(history))
    changed = resume.worker_differences(chiefs["fields"], fields)
    if chiefs["data_crc32c"] != data_crc32c:
        changed.append("the training images")
    if changed:
        raise errors.ConfigError(
            "the config or data of this worker differs from the chief's"
            f" ({'; '.join(changed)}). Fix: start all workers with the same"
            " command line"
        )
    chiefs["fields"] = fields
    history = History(**chiefs)
    if history.step > train_steps:
        raise errors.ResumeError(
            f"the checkpoint of step {history.step} is after the last step,"
            f" {train_steps}, of --config.epochs and --config.steps. Fix:"
            " choose another workdir for a shorter run"
        )
    return history
