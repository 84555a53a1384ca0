"""Mode train, which starts a run, resumes it, or reports its result."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import logging

from job import errors
from job.checkpoint import store
from job.config import ranges, run_config, serialization
from job.distribute import environment
from job.modes import Outcome
from job.output import results
from job.storage import files
from job.storage import workdir as workdirs
from job.storage.workdir import FAILURE, REPORT, RESULT, STARTS
from job.supervision import restarts, startup
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import Watchdog


def run(
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    stop: StopRequest,
    watchdog: Watchdog,
    *,
    config_name: str,
    upload_seconds: float,
) -> Outcome:
    """Trains until the last step, or only reports a finished run.

    Args:
      config: Checked config.
      workdir: Open workdir of the run.
      stop: Stop request, polled throughout.
      watchdog: Watchdog, not started yet.
      config_name: Config file and variant, for the first line of the log.
      upload_seconds: Interval between two uploads to a gs:// workdir, in
        seconds.

    Raises:
      JobError: The run failed or was stopped; see `errors`.
    """
    fields = serialization.flatten(config)
    cluster = None
    if fields["distribute.strategy"] == "multi_worker":
        cluster = environment.from_environment(os.environ)
        # Each worker has at least this many devices.
        devices = fields["distribute.logical_devices"] or 1
        ranges.check_replicas(fields, devices * len(cluster.workers))
    output = []
    result = results.finished(workdir, fields)
    if result:
        output.append(f"The run in {workdir} is finished: nothing left to do.")
    elif cluster and not cluster.is_chief:
        _follow_chief(config, cluster, stop, watchdog)
        summary = f"worker {cluster.index} is done; the chief has the result"
        return Outcome([summary], summary)
    else:
        workdir.check_writable()
        logging.info(
            "Starting config %s, workdir %s, seed %d",
            config_name,
            workdir,
            config.seed,
        )
        result = _train(
            config, workdir, stop, watchdog, cluster, upload_seconds
        )
    output += summarize(result, workdir)
    output += suggest_next(
        workdir, is_synthetic=fields["data.source"] == "synthetic"
    )
    split = results.evaluated_split(result)
    return Outcome(
        output,
        f"{split} accuracy {result[f'{split}_accuracy']:.2%},"
        f" {result['train_steps']} steps",
    )


def _train(
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    stop: StopRequest,
    watchdog: Watchdog,
    cluster: environment.Cluster | None,
    upload_seconds: float,
) -> dict[str, Any]:
    """Trains as the only worker or the chief, and returns the result."""
    fields = serialization.flatten(config)
    workdir.check_writable()
    checkpoints = store.CheckpointStore(workdir.checkpoints)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            run_config.as_owner(workdir, config, lambda: stop.has_saved)
        )
        saved = checkpoints.committed_steps()
        stack.enter_context(
            workdir.uploading(
                seconds=upload_seconds, is_owner=lambda: stop.has_saved
            )
        )
        stack.enter_context(
            restarts.counted(
                workdir.local, max(saved, default=-1), workdir.file(STARTS)
            )
        )
        workdir.push(STARTS)  # A kill may end this attempt at any time.
        watchdog.start()
        stop.check()
        startup.import_tensorflow()
        from job import train
        from job.distribute import workers

        with (
            startup.translate_out_of_memory(fields),
            workers.translate_lost_worker(cluster),
            _recorded_divergence(workdir),
        ):
            return train.train_and_evaluate(
                config, workdir, stop, watchdog, cluster=cluster
            )


@contextlib.contextmanager
def _recorded_divergence(workdir: workdirs.Workdir) -> Iterator[None]:
    """Writes the cause of a divergence and the report before re-raising it."""
    try:
        yield
    except errors.DivergedError as error:
        from job import train

        failure = {"exit_code": error.exit_code, "error": str(error)}
        with train.best_effort(FAILURE):
            files.write_json(workdir.local / FAILURE, failure)
        train.write_page(workdir)
        raise


def _follow_chief(
    config: ml_collections.ConfigDict,
    cluster: environment.Cluster,
    stop: StopRequest,
    watchdog: Watchdog,
) -> None:
    """Trains as a worker that is not the chief, in a temporary workdir."""
    stop.last_line = "the log of worker 0 has the last saved step"
    watchdog.start()
    stop.check()
    startup.import_tensorflow()
    from job import train
    from job.distribute import workers

    with (
        tempfile.TemporaryDirectory(
            prefix="job-", ignore_cleanup_errors=True
        ) as folder,
        startup.translate_out_of_memory(serialization.flatten(config)),
        workers.translate_lost_worker(cluster),
    ):
        own = workdirs.Workdir(pathlib.Path(folder))
        train.train_and_evaluate(config, own, stop, watchdog, cluster=cluster)


def summarize(result: dict[str, Any], workdir: workdirs.Workdir) -> list[str]:
    """Returns the summary of a finished run, a name and a value per line.

    Args:
      result: Contents of `result.json`.
      workdir: Workdir of the run.
    """
    split = results.evaluated_split(result)
    tta = result[f"{split}_accuracy_tta"]
    rows = [
        (f"{split} accuracy", f"{result[f'{split}_accuracy']:.2%}"),
        ("with flip TTA", "" if tta is None else f"{tta:.2%}"),
        (f"{split} loss", _format(result.get(f"{split}_loss"), ".4f")),
        ("steps", _format(result["train_steps"], ",d")),
        ("time", _format(result["train_seconds"], ",.0f") + " s"),
        ("images/s", _format(result["images_per_second"], ",.0f")),
    ]
    for name, field in (("resumed", "resumes"), ("rolled back", "rollbacks")):
        if result.get(field):
            rows.append((name, f"{result[field]} times"))
    if len(planned := result.get("planned_steps", [])) > 1:
        rows.append(("planned for", ", then ".join(f"{n:,}" for n in planned)))
    rows.append(("results", workdir.file(RESULT)))
    if (workdir.local / REPORT).exists():
        rows.append(("report", workdir.file(REPORT)))
    rows.append(("curves", f"tensorboard --logdir={workdir}"))
    width = max(len(name) for name, _ in rows)
    return ["", *(f"{name:<{width}}  {value}" for name, value in rows if value)]


def suggest_next(workdir: workdirs.Workdir, *, is_synthetic: bool) -> list[str]:
    """Returns the command to try after a finished run, and its purpose.

    Args:
      workdir: Workdir of the run.
      is_synthetic: Whether the run was trained on synthetic images.
    """
    if is_synthetic:
        purpose = (
            "train on real images (downloaded; add DATA=DIR for your own copy"
            " of CIFAR-10)"
        )
        command = "make train CONFIG=configs/stem32.py:10ep"
    else:
        purpose = "find out what limits the accuracy"
        command = f"make diagnose WORKDIR={workdir}"
    return ["", f"Next: {purpose}", f"    {command}"]


def _format(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
