"""Training job for VGG16 on CIFAR-10: signals, flags, modes, exit codes.

    python -m job.main --config=configs/stem32.py --workdir=runs/a

Wrong flags end it before TensorFlow's import. Mode train is modes/train.py.
"""

if __name__ == "__main__":
    # First, because process 1 of a container ignores signals until then.
    try:
        from job.supervision import interpreter

        interpreter.require_packages()
        from job.supervision import preemption, termination

        termination.open_streams()
        _STOP = preemption.StopRequest()
        _STOP.install()
    except KeyboardInterrupt:
        import os

        os.write(2, b"preempted: stopped by SIGINT: nothing was begun\n")
        os._exit(75)

import sys
import threading
import traceback
from collections.abc import Iterable

from job import errors, flags, modes
from job.modes import (
    ablate,
    benchmark,
    diagnose,
    evaluate,
    export,
    fetch,
    predict,
    report,
    train,
)
from job.output import progress
from job.storage import workdir as workdirs
from job.supervision import exits, preemption, termination, watchdog


def main(argv: list[str], stop: preemption.StopRequest) -> int:
    """Runs the job and returns its exit code; see `errors`.

    Args:
      argv: Program name and arguments.
      stop: Installed stop request.
    """
    threading.excepthook = exits.exit_on_thread_error
    try:
        if flags.is_help(argv):
            print_lines([flags.help_text()])
            return errors.EXIT_DONE
        flags.parse(argv)
        with exits.translate_errors():
            progress.log_to_stderr()
            stop.grace_seconds = flags.require_seconds(
                "grace_seconds", above=0.0
            )
            outcome = run_mode(flags.MODE.value, stop)
            print_lines(outcome.output)
    except errors.JobError as error:
        return exits.report_error(error, stop)
    summary = outcome.summary or f"--mode={flags.MODE.value}"
    termination.write(errors.EXIT_DONE, f"done: {summary}")
    return errors.EXIT_DONE


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines as they arrive, until the output is closed or full.

    A closed pipe or a full disk does not change the exit code.
    """
    for line in lines:
        try:
            print(line, flush=True)
        except OSError:
            return


def run_mode(mode: str, stop: preemption.StopRequest) -> modes.Outcome:
    """Runs a mode with the values of its flags and returns its outcome."""
    stop.last_line = modes.LAST_LINES.get(mode, stop.last_line)
    if mode == "evaluate":
        return evaluate.run(flags.require_workdir(), stop)
    if mode == "report":
        return report.run([flags.require_workdir(), *flags.RUNS.value])
    if mode == "predict":
        return predict.run(
            flags.require_workdir(),
            flags.INPUT.value,
            stop,
            output_format=flags.FORMAT.value,
        )
    if mode == "export":
        return export.run(flags.require_workdir(), stop)
    if mode == "diagnose":
        return diagnose.run(
            flags.require_config() if flags.CONFIG.value else None,
            flags.WORKDIR.value,
            stop,
            **flags.diagnose_arguments(),
        )
    config = flags.require_config()
    if mode == "config":
        return modes.Outcome([str(config)])
    if mode == "fetch":
        return fetch.run(config, stop)
    upload_seconds = flags.require_seconds("upload_seconds", above=0.0)
    if mode == "benchmark":
        return benchmark.run(
            config, flags.WORKDIR.value, stop, upload_seconds=upload_seconds
        )
    if mode == "ablate":
        return ablate.run(
            flags.config_filename(),
            flags.require_workdir(),
            stop,
            strategy=config.distribute.strategy,
            seeds=range(config.seed, config.seed + flags.SEEDS.value),
            arguments=flags.child_arguments(),
            index=flags.INDEX.value,
        )
    with workdirs.open_workdir(flags.require_workdir()) as workdir:
        return train.run(
            config,
            workdir,
            stop,
            watchdog.Watchdog(
                flags.require_seconds("watchdog_seconds"),
                heartbeat_file=flags.require_heartbeat_file(),
                saved=lambda: stop.last_line,
            ),
            config_name=flags.config_filename(),
            upload_seconds=upload_seconds,
        )


if __name__ == "__main__":
    try:
        _code = main(sys.argv, _STOP)
    except BaseException:  # Only a bug leads here.
        traceback.print_exc()
        _code = errors.JobError.exit_code
    exits.exit_now(_code)
