"""The command line: flags, modes, exit codes; the only room that reads flags.

    python -m job.main --config=configs/stem32.py --workdir=runs/a

Flags and config are checked before TensorFlow is imported: a wrong one ends the
job in well under a second.
"""

if __name__ == "__main__":
    # Ahead of all other imports: who is process 1 of a container is deaf to
    # signals until it asks for them.
    from job.supervision import preemption

    _STOP = preemption.StopRequest()
    _STOP.install()

import contextlib
import errno
import functools
import importlib
import json
import math
import os
import pathlib
import re
import runpy
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from configs import default
from job import errors
from job.checkpoint import store
from job.config import augmentation, ranges, resume, run_config, serialization
from job.distribute import environment as cluster
from job.modes import ablate
from job.output import results
from job.storage import workdir as workdirs
from job.supervision import preemption, restarts, termination, watchdog

_FIELDS = "configs/default.py has them all"

MODES = (
    *("train", "config", "fetch", "evaluate", "predict", "export"),
    *("ablate", "report", "benchmark", "diagnose"),
)

# What --config's own parser looks into; `main` fills it. Its default, sys.argv,
# would be read as the flag is defined, where nobody catches a wrong --flagfile.
_ARGV: list[str] = []

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, configs/NAME.py[:variant]; --config.FIELD=VALUE changes a"
    " field.",
    lock_config=True,
    sys_argv=_ARGV,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "For all that a run writes: a folder or gs://BUCKET/PATH."
)
_UPLOAD_SECONDS = flags.DEFINE_float(
    "upload_seconds",
    60.0,
    "Between two copies of the record, events and results to a gs:// workdir;"
    " checkpoints go up at once.",
    lower_bound=1.0,
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    1,
    "Of --mode=ablate: how many runs of each variant, from --config.seed on.",
    lower_bound=1,
)
_INDEX = flags.DEFINE_integer(
    "index",
    None,
    "Of --mode=ablate: only this one of its runs, from 0; where it is not"
    " given, JOB_COMPLETION_INDEX of the environment, else all.",
    lower_bound=0,
)
_RUNS = flags.DEFINE_list(
    "runs", [], "Of --mode=report: further workdirs, beside --workdir."
)
_INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "Of --mode=predict: a PNG or JPEG file, a folder of them, or gs:// of"
    " either; may be given many times.",
)
_FORMAT = flags.DEFINE_enum(
    "format", "table", ["table", "jsonl"], "Of --mode=predict: how to answer."
)
_KERAS_MODEL = flags.DEFINE_string(
    "keras_model",
    None,
    "Of --mode=diagnose: somebody's model, a .keras file; of --config, or"
    " configs/default.py, only the data are used then.",
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_GRACE_SECONDS = flags.DEFINE_float(
    "grace_seconds",
    preemption.GRACE_SECONDS,
    "From SIGTERM until the node kills: terminationGracePeriodSeconds (GKE"
    " Spot: 15), docker stop --timeout. The job has gone 2 s earlier.",
)
_WATCHDOG_SECONDS = flags.DEFINE_float(
    "watchdog_seconds",
    watchdog.SECONDS,
    "Without progress for that long the job ends with 76; compiling and"
    f" downloading may take {watchdog.LONG_SECONDS:g}, a call of the loop 10"
    " times what it usually takes. 0: never.",
)
_HEARTBEAT_FILE = flags.DEFINE_string(
    "heartbeat_file",
    None,
    "JSON with phase, step and time, rewritten while there is progress; for a"
    " liveness probe on its age.",
)


def main(argv: list[str], stop: preemption.StopRequest) -> int:
    """Runs the job; returns its exit code (see `errors`).

    Args:
      argv: the command line.
      stop: installed.
    """
    # Its own: file descriptor 2 may be led elsewhere for a while.
    threading.excepthook = functools.partial(_end_loudly, os.dup(2))
    try:
        rest = _parse_flags(argv)
        if rest is None:
            return errors.EXIT_DONE
        with _bugs_named():
            outcome = _run(stop)
    except errors.JobError as error:
        return _report(error, stop)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return _report(errors.StorageError(str(error)), stop)
    termination.write(
        errors.EXIT_DONE, f"done: {outcome or f'--mode={_MODE.value}'}"
    )
    return errors.EXIT_DONE


@contextlib.contextmanager
def _bugs_named() -> Iterator[None]:
    """Leaves Kubernetes a line on what nobody foresaw; Python does the rest."""
    try:
        yield
    except errors.JobError:
        raise
    except BaseException as error:
        text = f"bug: {type(error).__name__}: {error}"
        termination.write(errors.JobError.exit_code, text)
        raise


def _report(error: errors.JobError, stop: preemption.StopRequest) -> int:
    _flush_logs()
    stop.claim_last_line()
    # In one write: other threads may have something to say too.
    line = f"{_title(error)}: {error}"
    sys.stderr.write(f"{line}\n")
    termination.write(error.exit_code, line)
    return error.exit_code


def _end_loudly(stderr: int, failed: threading.ExceptHookArgs) -> None:
    """Ends the process where a thread does not know what to do.

    Python's own way is a traceback in the log of a process that waits for ever,
    or goes on without what the thread was there for.
    """
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread else "?"
    lines = traceback.format_exception(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )
    text = f"{''.join(lines)}bug: thread {name} failed, so the job ends\n"
    termination.write(
        errors.JobError.exit_code, f"bug: thread {name}: {failed.exc_value}"
    )
    termination.say(stderr, text)
    os._exit(errors.JobError.exit_code)


def _run(stop: preemption.StopRequest) -> str:
    """Does what --mode says; returns its outcome for the last line, or ""."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    stop.grace_seconds = _require_seconds("grace_seconds", above=0.0)
    mode = _MODE.value
    if mode == "evaluate":
        return _evaluate(stop)
    if mode == "report":
        _report_on([_require_workdir(), *_RUNS.value])
    elif mode == "predict":
        _predict(stop)
    elif mode == "export":
        _export(stop)
    elif mode == "diagnose":
        print(_diagnose(stop))
    else:
        return _run_config(mode, _require_config(), stop)
    return ""


def _run_config(
    mode: str, config: ml_collections.ConfigDict, stop: preemption.StopRequest
) -> str:
    """Does what --mode says with a config; see `_run`."""
    if mode == "config":
        print(config)
    elif mode == "fetch":
        _fetch(config, stop)
    elif mode == "ablate":
        _ablate(config.seed, _require_folder(), stop)
    elif mode == "benchmark":
        print(_benchmark(config, stop))
    else:
        with workdirs.open_workdir(_require_workdir()) as workdir:
            return _train(config, workdir, stop)
    return ""


def _evaluate(stop: preemption.StopRequest) -> str:
    """Prints the newest checkpoint's scores; returns them in a few words."""
    stop.saved = "an evaluation leaves nothing behind"
    with workdirs.open_workdir(_require_workdir()) as workdir:
        saved = run_config.load(workdir.local, str(workdir))
        _import_quietly()
        from job import train

        with train.memory_explained(serialization.flatten(saved)):
            scores = train.evaluate_checkpoint(
                workdir.local,
                stop.check,
                storage=workdir.checkpoints,
                require_gpus=_image_gpus(),
            )
    print(json.dumps(scores, indent=2))
    return f"accuracy {scores['accuracy']:.2%} at step {scores['step']}"


def _benchmark(
    config: ml_collections.ConfigDict, stop: preemption.StopRequest
) -> str:
    """Returns the table; with --workdir, saves go there while it measures."""
    _import_quietly()
    from job import train
    from job.modes import benchmark

    with contextlib.ExitStack() as opened:
        opened.enter_context(
            train.memory_explained(serialization.flatten(config))
        )
        if not _WORKDIR.value:
            return benchmark.run_benchmark(config, None, stop)
        workdir = opened.enter_context(workdirs.open_workdir(_WORKDIR.value))
        opened.enter_context(workdir.kept_up(seconds=_UPLOAD_SECONDS.value))
        workdir.check_writable()
        return benchmark.run_benchmark(
            config,
            workdir.local,
            stop,
            storage=workdir.storage("benchmark"),
        )


def _report_on(names: Sequence[str]) -> None:
    """Writes the page of each run, and compares where there are several."""
    from job.report import comparison as compare
    from job.report import page, run

    with contextlib.ExitStack() as opened:
        found = [
            opened.enter_context(workdirs.open_workdir(name)) for name in names
        ]
        first = found[0]
        runs = [each for each in found if run.is_run(each.local)]
        for workdir in found:
            known = workdir in runs or (workdir.local / ablate.FILE).exists()
            # The first one may be for the comparison alone.
            if not known and (workdir is not first or len(found) == 1):
                raise errors.ConfigError(
                    f"{workdir}: there is no {run_config.FILE} of a run in it,"
                    f" and no {ablate.FILE} of an ablation in a folder"
                )
        for workdir in runs:
            workdir.check_writable()
            page.write(
                workdir.local,
                store.CheckpointStore(workdir.checkpoints),
                name=str(workdir),
            )
            print(f"{workdir.file(page.FILE)}")
        if len(found) > 1 or first not in runs:
            first.check_writable()
            whole = [str(workdir) for workdir in found]
            short = [pathlib.PurePath(name).name for name in whole]
            # seed-0 of one and seed-0 of another are two runs.
            unique = len({*short}) == len(short)
            print(
                compare.write_report(
                    [workdir.local for workdir in found],
                    short if unique else whole,
                )
            )
        for workdir in found:
            workdir.push()


def _predict(stop: preemption.StopRequest) -> None:
    """Prints what the newest checkpoint says of each --input."""
    stop.saved = "answers that are printed are whole"
    names = [name for name in _INPUT.value if name]
    if not names:
        raise errors.ConfigError(
            "--input is missing: an image file, a folder or gs:// of either"
        )
    with workdirs.open_workdir(_require_workdir()) as workdir:
        run_config.load(workdir.local, str(workdir))
        from job.data import image_file

        inputs = image_file.find(names)
        _import_quietly()
        from job import train
        from job.modes import predict

        trained = train.load_trained(
            workdir.local, storage=workdir.checkpoints, name=str(workdir)
        )
    width = min(60, max(len(one.name) for one in inputs))
    unread = 0
    answers = predict.predict(
        inputs,
        trained.network,
        trained.resize,
        trained.class_names,
        poll=stop.check,
    )
    with contextlib.suppress(BrokenPipeError):  # Nobody reads on.
        for answer in answers:
            unread += bool(answer.error)
            if _FORMAT.value == "jsonl":
                print(predict.to_json(answer), flush=True)
            else:
                print(predict.to_row(answer, width), flush=True)
    if unread:
        raise errors.DataError(
            f"{unread} of {len(inputs)} files could not be read, as said above"
        )


def _export(stop: preemption.StopRequest) -> None:
    """Writes WORKDIR/export/ from the newest checkpoint."""
    stop.saved = "an export that was there before is kept"
    with workdirs.open_workdir(_require_workdir()) as workdir:
        run_config.load(workdir.local, str(workdir))
        workdir.check_writable()
        _import_quietly()
        from job import train
        from job.modes import export
        from job.report import card, run

        trained = train.load_trained(
            workdir.local, storage=workdir.checkpoints, name=str(workdir)
        )
        stop.check()
        about = run.read(
            workdir.local,
            store.CheckpointStore(workdir.checkpoints),
            name=str(workdir),
        )
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells how it saves.
        difference = export.export(
            trained.network,
            trained.resize,
            workdir.local / export.FOLDER,
            card.write(
                about,
                step=trained.step,
                class_names=trained.class_names,
                crc32c=trained.data_crc32c,
            ),
            method=trained.config.model.upsampling,
            images=about.scored.pictures if about.scored else None,
        )
        stop.check()
        workdir.push()
    print(
        f"{workdir.file(export.FOLDER)}: {export.SAVED_MODEL}, {export.KERAS}"
        f" and {export.CARD}, of step {trained.step}; within {difference:.1g}"
        " of the checkpoint"
    )


def _train(
    config: ml_collections.ConfigDict,
    workdir: workdirs.Workdir,
    stop: preemption.StopRequest,
) -> str:
    """Trains to the end, or says that it was; returns the outcome."""
    fields = serialization.flatten(config)
    workers = None
    if fields["distribute.strategy"] == "multi_worker":
        workers = cluster.from_environment(os.environ)
        devices = (
            fields["distribute.logical_devices"] or 1
        )  # Of each, at least.
        ranges.check_replicas(fields, devices * len(workers.workers))
    watch = watchdog.Watchdog(
        _require_seconds("watchdog_seconds"),
        heartbeat_file=_require_heartbeat_file(),
        saved=lambda: stop.saved,
    )
    result = results.finished(workdir.local, fields)
    if result:
        print(
            f"{workdir} holds this run, finished: there is nothing left to do"
        )
    elif workers and not workers.is_chief:
        _follow(config, workers, stop, watch)
        outcome = f"worker {workers.index} is done; the chief has the result"
        print(outcome)
        return outcome
    else:
        workdir.check_writable()
        saved = store.CheckpointStore(workdir.checkpoints).committed_steps()
        with (
            workdir.kept_up(seconds=_UPLOAD_SECONDS.value),
            restarts.counted(
                workdir.local,
                max(saved, default=-1),
                workdir.file(restarts.FILE),
            ),
        ):
            workdir.push()  # The count, before anything ends this start.
            watch.start()
            stop.check()
            _import_quietly()
            from job import train
            from job.distribute import workers as peers

            with train.memory_explained(fields), peers.lost_explained(workers):
                result = train.train_and_evaluate(
                    config,
                    workdir.local,
                    stop,
                    watch,
                    storage=workdir.checkpoints,
                    command=_command(fields, workdir),
                    cluster=workers,
                    publish=workdir.push_last,
                )
    _print_result(result, workdir)
    if fields["data.source"] == "synthetic":
        print(
            "\nThose were drawn images. Real CIFAR-10:\n"
            "    make train CONFIG=configs/stem32.py:8ep DATA=DIR\n"
            "with DIR its folder or .tar.gz; without DATA it is downloaded"
        )
    return _outcome(result)


def _follow(
    config: ml_collections.ConfigDict,
    workers: cluster.Cluster,
    stop: preemption.StopRequest,
    watch: watchdog.Watchdog,
) -> None:
    """Trains as one of several workers that is not the chief.

    All that it writes goes into a folder that nobody looks at.
    """
    stop.saved = "worker 0's log says up to which step all is saved"
    watch.start()
    stop.check()
    _import_quietly()
    from job import train
    from job.distribute import workers as peers

    fields = serialization.flatten(config)
    with (
        tempfile.TemporaryDirectory(
            prefix="job-", ignore_cleanup_errors=True
        ) as folder,
        train.memory_explained(fields),
        peers.lost_explained(workers),
    ):
        train.train_and_evaluate(
            config, pathlib.Path(folder), stop, watch, cluster=workers
        )


def _fetch(
    config: ml_collections.ConfigDict, stop: preemption.StopRequest
) -> None:
    """Has the images once where many runs will look for them."""
    stop.saved = "what was fetched before is kept"
    _import_quietly()
    from job.data import sources

    images = sources.load(
        config.data.source,
        config.data.dir,
        archive_sha256=config.data.archive_sha256,
        poll=stop.check,
    )
    counts = " and ".join(
        str(len(s.images)) for s in (images.train, images.test)
    )
    print(f"{counts} images are there, whole: {config.data.dir or 'as TFDS'}")


def _ablate(
    seed: int, workdir: pathlib.Path, stop: preemption.StopRequest
) -> None:
    index = _INDEX.value
    if index is None and (given := os.environ.get("JOB_COMPLETION_INDEX")):
        if not given.isdecimal():
            raise errors.ConfigError(
                f"JOB_COMPLETION_INDEX={given}: it must be a run's number,"
                " from 0"
            )
        index = int(given)
    plan = ablate.Plan.load(
        flags.FLAGS["config"].config_filename,
        range(seed, seed + _SEEDS.value),
    )
    # Whether they stand on the command line or in a --flagfile, as a cluster
    # has them, and however they are written.
    changed = config_flags.get_override_values(flags.FLAGS["config"])
    arguments = [f"--config.{name}={value}" for name, value in changed.items()]
    arguments += [
        f"--{name}={flags.FLAGS[name].value}"
        for name in ("grace_seconds", "watchdog_seconds", "heartbeat_file")
        if flags.FLAGS[name].present
    ]
    ablate.run_plan(plan, workdir, arguments, stop, index=index)
    print(f"all runs are over; --mode=report --workdir={workdir} compares them")


def _diagnose(stop: preemption.StopRequest) -> str:
    """Returns what is wrong with a config, a run or a model, as text."""
    if _KERAS_MODEL.value:
        if _WORKDIR.value:
            raise errors.ConfigError(
                "--keras_model is of no run: leave --workdir out"
            )
        config = _require_config() if _CONFIG.value else default.get_config()
        _import_quietly()
        from job.diagnose import diagnosis, finding

        path = pathlib.Path(os.path.expanduser(_KERAS_MODEL.value))
        return finding.to_text(diagnosis.diagnose_model(path, config, stop))
    if not _WORKDIR.value and _CONFIG.value is None:
        raise errors.ConfigError(
            "--mode=diagnose needs --config, --workdir or --keras_model"
        )
    with contextlib.ExitStack() as stack:
        workdir = None
        config = _require_config() if _CONFIG.value else None
        if _WORKDIR.value:
            workdir = stack.enter_context(workdirs.open_workdir(_WORKDIR.value))
            config = _config_of(workdir, config)
            if not workdir.mirror:
                workdir.check_writable()
        _import_quietly()
        from job import train
        from job.diagnose import diagnosis, finding

        with train.memory_explained(serialization.flatten(config)):
            report = diagnosis.diagnose(config, workdir, stop)
    return finding.to_text(report)


def _config_of(
    workdir: workdirs.Workdir, given: ml_collections.ConfigDict | None
) -> ml_collections.ConfigDict:
    """Returns the config of the run in `workdir`, or `given`, if it fits."""
    if not (workdir.local / run_config.FILE).exists() and given is not None:
        return given
    saved = run_config.load(workdir.local, str(workdir))
    if given is None:
        return saved
    changed = resume.differences(
        serialization.flatten(saved), serialization.flatten(given)
    )
    if changed:
        raise errors.ConfigError(
            f"--workdir={workdir} holds a run of another config"
            f" ({'; '.join(changed[:3])}); leave --config out, or choose"
            " another workdir"
        )
    return given


def _outcome(result: dict[str, Any]) -> str:
    split = "test" if "test_accuracy" in result else "validation"
    return (
        f"{split} accuracy {result[f'{split}_accuracy']:.2%},"
        f" {result['train_steps']} steps"
    )


def _print_result(result: dict[str, Any], workdir: workdirs.Workdir) -> None:
    """Prints a summary: a name and a value a line, and where the rest is."""
    split = "test" if "test_accuracy" in result else "validation"
    tta = result[f"{split}_accuracy_tta"]
    rows = [
        (f"{split} accuracy", f"{result[f'{split}_accuracy']:.2%}"),
        ("with mirror images", "" if tta is None else f"{tta:.2%}"),
        (f"{split} loss", _shown(result.get(f"{split}_loss"), ".4f")),
        ("steps", _shown(result["train_steps"], ",d")),
        ("time", _shown(result["train_seconds"], ",.0f") + " s"),
        ("images/s", _shown(result["images_per_second"], ",.0f")),
    ]
    for name, field in (("resumed", "resumes"), ("rolled back", "rollbacks")):
        if result.get(field):
            rows.append((name, f"{result[field]} times"))
    if len(planned := result.get("planned_steps", [])) > 1:
        rows.append(("planned for", ", then ".join(f"{n:,}" for n in planned)))
    rows.append(("results", workdir.file(results.FILE)))
    if (workdir.local / "report.html").exists():
        rows.append(("report", workdir.file("report.html")))
    rows.append(("curves", f"tensorboard --logdir={workdir}"))
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        if value:
            print(f"{name:<{width}}  {value}")


def _shown(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def _parse_flags(argv: list[str]) -> list[str] | None:
    """Parses flags; returns what is left, or None where help was printed."""
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(f"{__doc__}\nmodes: {', '.join(MODES)}\n\n{_flag_help()}")
        return None
    _ARGV[:] = argv
    try:
        rest = flags.FLAGS(argv)
    except (Exception, SystemExit) as error:
        # A config file is a program: it may raise anything.
        raise errors.ConfigError(_one_line(error)) from None
    if rest[1:]:
        raise errors.ConfigError(
            f"{rest[1]!r} is no flag; flags are --name=value, see --help"
        )
    return rest


def _flag_help() -> str:
    return flags.FLAGS.module_help(sys.modules[__name__])


def _one_line(error: BaseException) -> str:
    """Returns what a person needs of an error of the flag parsers."""
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        # ml_collections quotes the name once or twice, with or without a hint.
        name = re.match(r"\W*(\w+)", text)
        hint = re.search(r"Did you mean.*?\?", text)
        if name and " " not in text.partition("Did")[0]:
            return (
                f"--config has no field {name[1]!r};"
                f" {hint[0] if hint else _FIELDS}"
            )
    if "Traceback" in text:
        # ml_collections quotes the config file's own error: its last line.
        text = text.strip().splitlines()[-1]
    # What config files say in words of their own.
    text = text.removeprefix("ValueError: ")
    if "get_config() takes 0 positional arguments" in text:
        text = "--config: the file has no variants; leave its colon out"
    elif not isinstance(error, flags.Error):
        text = f"--config cannot be read: {type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text).strip()[:500]


def _require_config() -> ml_collections.ConfigDict:
    if _CONFIG.value is None:
        raise errors.ConfigError(
            "--config is missing; a first one is --config=configs/quickstart.py"
        )
    try:
        explicit = config_flags.get_override_values(flags.FLAGS["config"])
        augmentation.use_preset(_CONFIG.value, explicit)
        ranges.check(_CONFIG.value)
    except OSError as error:  # ml_collections reports a failed load only here.
        cause = str(error).strip().splitlines()[-1].strip()
        raise errors.ConfigError(f"--config cannot be read: {cause}") from None
    distribute = _CONFIG.value.distribute
    distribute.require_gpus = max(distribute.require_gpus, _image_gpus())
    return _CONFIG.value


def _command(
    fields: dict[str, Any], workdir: workdirs.Workdir
) -> dict[str, Any]:
    """Returns what the command line named; see `train.train_and_evaluate`."""
    flag = flags.FLAGS["config"]
    named = config_flags.get_override_values(flag)
    file, _, variant = flag.config_filename.partition(":")
    before: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # It ran well a moment ago.
        get_config = runpy.run_path(file)["get_config"]
        before = serialization.flatten(
            get_config(variant) if variant else get_config()
        )
    return {
        "workdir": str(workdir),
        "config": flag.config_filename,
        "flags": {name: fields[name] for name in named if name in fields},
        "replaced": {name: before[name] for name in named if name in before},
    }


def _image_gpus() -> int:
    """Returns how many GPUs the environment asks for, as images for GPUs do.

    No flag of theirs: those that a person gives to an image replace its own.
    """
    given = os.environ.get("JOB_REQUIRE_GPUS", "")
    if given and not given.isdecimal():
        raise errors.ConfigError(
            f"JOB_REQUIRE_GPUS={given} in the environment: it must be a"
            " number of GPUs, 0 for none"
        )
    return int(given or 0)


def _require_workdir() -> str:
    if not _WORKDIR.value:
        raise errors.ConfigError("--workdir is missing, as in --workdir=runs/a")
    return _WORKDIR.value


def _require_folder() -> pathlib.Path:
    name = _require_workdir()
    if "://" in name:
        raise errors.ConfigError(
            f"--workdir={name}: --mode={_MODE.value} works on folders only"
        )
    with workdirs.open_workdir(name) as workdir:
        workdir.check_writable()
        return workdir.local


def _require_seconds(name: str, *, above: float = -1.0) -> float:
    value = flags.FLAGS[name].value
    if not math.isfinite(value) or value < 0 or value <= above:
        wanted = "above 0" if above >= 0 else "at least 0"
        raise errors.ConfigError(
            f"--{name}={value:g}: it must be seconds, {wanted}"
        )
    return value


def _require_heartbeat_file() -> pathlib.Path | None:
    value = _HEARTBEAT_FILE.value
    if not value:
        return None
    path = pathlib.Path(value)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise errors.ConfigError(
            f"--heartbeat_file={value}: no file can be written there"
        )
    return path


def _import_quietly() -> None:
    """Imports TensorFlow without its greetings; errors are still printed.

    And Keras without its settings: it would read ~/.keras/keras.json, which may
    change the backend or the precision, or write one where there is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")
    # The first greetings come before any log level is heeded, from C++.
    sys.stderr.flush()
    # Keras would import pyplot, if it is there, for galleries that nobody asks
    # for: half a second, and a list of fonts written into the home directory.
    pyplot = sys.modules.get("matplotlib")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        os.dup2(greetings.fileno(), 2)
        try:
            import tensorflow as tf

            importlib.import_module("keras")
        except BaseException:
            greetings.seek(0)
            os.write(stderr, greetings.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            del sys.modules["matplotlib"]
            if pyplot:
                sys.modules["matplotlib"] = pyplot
    tf.get_logger().setLevel("ERROR")


def _title(error: errors.JobError) -> str:
    if isinstance(error, errors.PreemptedError):
        return "preempted"
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()


def _flush_logs() -> None:
    for handler in logging.get_absl_logger().handlers:
        handler.flush()


def _exit(code: int) -> None:
    """Ends the process now: no thread or library may delay or spoil it."""
    _flush_logs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # Nobody reads it.
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _code = main(sys.argv, _STOP)
    except BaseException:  # A bug; the threads may be in no state to end.
        traceback.print_exc()
        _code = errors.JobError.exit_code
    _exit(_code)
