"""Training of a run, from its config to its result.

`train_and_evaluate` creates the objects of a run, then runs one loop. Each turn
of the loop trains some steps on the device, logs, evaluates and saves. A
restarted run resumes from the newest checkpoint.

    workdir = Workdir(pathlib.Path("runs/a"))
    result = train_and_evaluate(config, workdir, StopRequest())
"""

import contextlib
import datetime
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
from absl import logging

from job import build, errors
from job.augment import picture
from job.config import serialization
from job.data.dataset import Dataset
from job.distribute.environment import Cluster
from job.distribute.workers import Workers
from job.output import metrics, predictions, results
from job.output.results import Scores
from job.storage import files
from job.storage.workdir import (
    AUGMENTATION,
    CONFIG,
    FAILURE,
    PREDICTIONS,
    REPORT,
    RESULT,
    Workdir,
)
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import LONG_SECONDS, Watchdog
from job.training import plan as plan_lib
from job.training import resume
from job.training.history import History
from job.training.loop import Loop, Training
from job.training.phases import log_costs
from job.training.plan import Plan
from job.training.shared_saver import create_saver
from job.training.state import TrainState
from job.training.supervisor import Supervisor


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Workdir,
    stop: StopRequest,
    watchdog: Watchdog | None = None,
    *,
    data: Dataset | None = None,
    cluster: Cluster | None = None,
    on_call: Callable[[Loop], None] = lambda loop: None,
) -> dict[str, Any]:
    """Trains until the last step, from the newest checkpoint if one exists.

    Args:
      config: Config with every field of `configs/default.py`, checked by
        `ranges.check`.
      workdir: Workdir for all output. Created if needed.
      stop: Stop request, polled while data is loaded, in training and in
        evaluation.
      watchdog: Watchdog, notified wherever `stop` is polled. If None, a hang is
        not detected.
      data: Training and test images. If None, loaded as in `config.data`.
      cluster: Addresses of the workers, each of which calls this function. If
        None, there is one worker. Only the chief's checkpoints and workdir
        are used.
      on_call: Function called with the loop after each call of the compiled
        steps; see `Loop`.

    Returns:
      Contents of `result.json`.

    Raises:
      JobError: The run failed or was stopped; see `errors`. Committed
        checkpoints are kept.
    """
    supervisor = Supervisor(stop, watchdog)
    supervisor.poll()
    if cluster:
        cluster.wait_for_others(supervisor.poll)
    strategy = build.create_strategy(config, cluster)
    if cluster:
        stop.listen()  # TensorFlow has replaced the handler of SIGTERM.
    workers = supervisor.workers = Workers(strategy, cluster)
    data = data or build.load_data(config, supervisor.poll)
    supervisor.poll("build")

    plan = build.create_plan(config, len(data.train))
    for warning in plan_lib.unreached_phases(plan):
        logging.warning("%s", warning)
    state = build.create_state(config, strategy, num_classes=data.num_classes)
    evaluation = build.create_evaluation(config, strategy, data, workers)
    checkpoints = build.create_checkpoints(config, workdir.checkpoints)
    history = resume.restore_on_chief(
        checkpoints,
        state,
        serialization.flatten(config),
        data.checksum(),
        workers,
        train_steps=plan.train_steps,
    )
    log_costs(state.model, plan.phases)
    history.begin(strategy.num_replicas_in_sync, plan.train_steps)
    prepare_workdir(workdir.local, config, plan, history, data)
    build.initialize_state(config, state, workers, is_new=not history.step)
    inputs, network = build.prepare_inputs(
        config, data.train, state, plan, supervisor.poll
    )
    training = build.create_training(
        config, strategy, state, plan, inputs, network
    )
    reporter = build.create_reporter(
        config, workdir.local, plan, training, first_step=history.step
    )
    saver = create_saver(checkpoints, workers, history, stop)
    loop = Loop(
        plan=plan,
        state=state,
        training=training,
        evaluation=evaluation,
        saver=saver,
        history=history,
        reporter=reporter,
        supervisor=supervisor,
        on_nonfinite=config.checkpoint.on_nonfinite,
        on_call=on_call,
    )
    with contextlib.closing(reporter), saver:
        # It calls the compiled steps of training/step.make_train_steps, which
        # call training/loss and then training/update.
        loop.run(until=plan.train_steps)
        scores = loop.final_scores()
        loop.finish()
    # Another process may have started the same run and lost the race.
    reporter.log.rewrite_if_changed()

    supervisor.beat("report", plan.train_steps, seconds=LONG_SECONDS)
    result = write_results(
        workdir.local, config, plan, data, state, training, scores, history
    )
    supervisor.beat("end", plan.train_steps, seconds=LONG_SECONDS)
    if workers.is_chief:
        write_page(workdir)
        workdir.push_last()  # Before the other workers may exit.
    workers.barrier()
    return result


def prepare_workdir(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    plan: Plan,
    history: History,
    data: Dataset,
) -> None:
    """Creates the workdir and resets its files to the restored step."""
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(workdir / CONFIG, serialization.to_json(config))
    if history.step < plan.train_steps:
        # An existing result belongs to a shorter run.
        for name in (RESULT, REPORT, PREDICTIONS, FAILURE):
            (workdir / name).unlink(missing_ok=True)
    if history.metrics_lines is not None:
        metrics.restore(workdir, history.metrics_lines)
    picture.write(
        workdir / AUGMENTATION,
        data.train.images,
        build.create_operations(config),
        seed=config.seed,
    )


def write_results(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    plan: Plan,
    data: Dataset,
    state: TrainState,
    training: Training,
    scores: Scores,
    history: History,
) -> dict[str, Any]:
    """Writes the predictions and `result.json`, and returns its contents."""
    with best_effort(PREDICTIONS):
        predictions.predict(scores.logits, data.test, data.class_names).save(
            workdir / PREDICTIONS
        )
    result = results.summarize(
        serialization.flatten(config),
        scores,
        lines=metrics.read(workdir),
        split=build.evaluated_split(config),
        train_steps=plan.train_steps,
        train_seconds=history.train_seconds,
        compile_seconds=history.compile_seconds,
        params=state.model.count_params(),
        train_tflop=training.tflop(plan.train_steps),
        replicas=state.step.distribute_strategy.num_replicas_in_sync,
        data_source=data.source,
        resumes=history.resumes,
        rollbacks=len(history.rollbacks),
        planned_steps=history.planned_steps(),
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    files.write_json(workdir / RESULT, result)
    return result


def write_page(workdir: Workdir) -> None:
    """Writes `report.html`, or logs a warning if that fails."""
    with best_effort(REPORT):
        from job.report import page  # The import takes a second.

        page.write(workdir)


@contextlib.contextmanager
def best_effort(name: str) -> Iterator[None]:
    """Logs a warning instead of raising, for files that nothing depends on.

    Args:
      name: Name of the file in the warning.
    """
    try:
        yield
    except Exception as error:
        kind, reason = type(error).__name__, errors.first_line(error)
        logging.warning("Skipped writing %s (%s: %s)", name, kind, reason)
