"""Mode evaluate, which scores the newest checkpoint of a run."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

from absl import logging

from job import errors
from job.config import run_config, serialization
from job.distribute import environment
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(workdir_name: str, stop: StopRequest) -> Outcome:
    """Scores the newest checkpoint without writing anything.

    Args:
      workdir_name: Workdir of the run.
      stop: Stop request, polled between two batches.
    """
    require_gpus = environment.required_gpus(os.environ)
    with workdirs.open_workdir(workdir_name) as workdir:
        saved = run_config.load(workdir)
        startup.import_tensorflow()
        with startup.translate_out_of_memory(serialization.flatten(saved)):
            scores = evaluate_checkpoint(
                workdir, stop.check, require_gpus=require_gpus
            )
    summary = f"accuracy {scores['accuracy']:.2%} at step {scores['step']}"
    logging.info("Scored the newest checkpoint: %s", summary)
    return Outcome([json.dumps(scores, indent=2)], summary)


def evaluate_checkpoint(
    workdir: workdirs.Workdir,
    poll: Callable[[], None] = lambda: None,
    *,
    require_gpus: int = 0,
) -> dict[str, Any]:
    """Returns the scores of a run's newest checkpoint.

    Runs on the devices of this machine. Scores do not depend on the devices
    that the run was trained on.

    Args:
      workdir: Workdir of the run, finished or not.
      poll: Function called between two batches. Its exceptions propagate.
      require_gpus: Minimum number of GPUs. 0 allows a CPU.

    Returns:
      Step of the checkpoint, and the fields of `Scores` except the logits.

    Raises:
      ConfigError: `workdir` does not contain a run.
      ResumeError: The run has no usable checkpoint, or other images.
    """
    from job import build
    from job.checkpoint import store
    from job.distribute import strategy as strategy_lib
    from job.training import resume

    config = run_config.load(workdir)
    strategy = strategy_lib.create_strategy(
        logical_devices=config.distribute.logical_devices,
        require_gpus=require_gpus,
    )
    data = build.load_data(config, poll)
    state = build.create_state(config, strategy, num_classes=data.num_classes)
    history = resume.restore_or_initialize(
        store.CheckpointStore(workdir.checkpoints),
        state,
        serialization.flatten(config),
        data.checksum(),
        set_aside=False,
    )
    if not history.step:
        raise errors.ResumeError(
            f"--workdir={workdir}: the run has no checkpoint yet. Fix: train"
            " first"
        )
    evaluator = build.create_evaluator(
        config, strategy, data.test, num_classes=data.num_classes
    )
    scores = evaluator(state.evaluated(), tta=True, poll=poll)
    figures = dataclasses.asdict(scores)
    del figures["logits"]
    return {"step": history.step, **figures}
