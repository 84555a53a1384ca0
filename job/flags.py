"""Command-line flags of the job, and clear errors for wrong ones.

flags.parse(["--config=configs/stem32.py", "--workdir=runs/a"])
config = flags.require_config()
"""

import os
import pathlib
import re
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from job import errors
from job.config import augmentation, ranges
from job.storage import files
from job.supervision import preemption, watchdog

MODES = (
    *("train", "config", "fetch", "evaluate", "predict", "export"),
    *("ablate", "report", "benchmark", "diagnose"),
)

# The longest time of a flag; the system's waits take no more than 292 years.
_MAX_SECONDS = 30 * 86400.0

# The arguments that the parser of --config reads; `parse` fills it. Its
# default, sys.argv, would be read while the flag is defined, where a wrong
# --flagfile raises outside of `parse`.
_ARGV: list[str] = []

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, configs/NAME.py[:variant]; --config.FIELD=VALUE changes a"
    " field.",
    lock_config=True,
    sys_argv=_ARGV,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Output directory: a local path or gs://BUCKET/PATH."
)
UPLOAD_SECONDS = flags.DEFINE_float(
    "upload_seconds",
    60.0,
    "Interval between uploads of metrics, events and results to a gs://"
    " workdir, in seconds; checkpoints are uploaded at once.",
    lower_bound=1.0,
)
SEEDS = flags.DEFINE_integer(
    "seeds",
    1,
    "--mode=ablate: number of seeds per variant, starting at --config.seed.",
    lower_bound=1,
)
INDEX = flags.DEFINE_integer(
    "index",
    None,
    "--mode=ablate: index of the only run to make, from 0. Defaults to"
    " JOB_COMPLETION_INDEX of the environment, else to all runs.",
    lower_bound=0,
)
RUNS = flags.DEFINE_list(
    "runs", [], "--mode=report: workdirs to compare with --workdir."
)
INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "--mode=predict: PNG or JPEG file, a folder of them, or gs:// of either;"
    " may be repeated.",
)
FORMAT = flags.DEFINE_enum(
    "format", "table", ["table", "jsonl"], "--mode=predict: output format."
)
KERAS_MODEL = flags.DEFINE_string(
    "keras_model",
    None,
    "--mode=diagnose: .keras file to diagnose. --config, by default"
    " configs/default.py, only names the data then.",
)
MODE = flags.DEFINE_enum("mode", "train", MODES, "Program to run.")
GRACE_SECONDS = flags.DEFINE_float(
    "grace_seconds",
    preemption.GRACE_SECONDS,
    "Time from SIGTERM until the process is killed, in seconds:"
    " terminationGracePeriodSeconds (GKE Spot: 15), docker stop --timeout. The"
    " job exits 2 s earlier.",
)
WATCHDOG_SECONDS = flags.DEFINE_float(
    "watchdog_seconds",
    watchdog.SECONDS,
    "Time without progress after which the job exits with 76, in seconds;"
    f" compiling and downloading may take {watchdog.LONG_SECONDS:g}, a call of"
    " the compiled steps 10 times its usual time. 0 disables.",
)
HEARTBEAT_FILE = flags.DEFINE_string(
    "heartbeat_file",
    None,
    "JSON file with phase, step and time, rewritten while there is progress;"
    " for a liveness probe on its age.",
)


def parse(argv: list[str]) -> None:
    """Parses a command line.

    Args:
      argv: Program name and arguments.

    Raises:
      ConfigError: A flag is unknown or has a wrong value.
    """
    _ARGV[:] = argv
    try:
        _check_config_file(flags.FLAGS.read_flags_from_files(argv))
        rest = flags.FLAGS(argv)
    except errors.JobError:
        raise
    except BaseException as error:
        # A config file is a program: it may raise anything.
        raise errors.ConfigError(_one_line(error)) from None
    if rest[1:]:
        raise errors.ConfigError(
            f"{rest[1]!r} is not a flag; flags are --name=value, see --help"
        )


def _check_config_file(argv: list[str]) -> None:
    """Refuses a --config that is there and no file: a FIFO would block."""
    for given in re.findall("^--?config[=\n](.*)$", "\n".join(argv), re.M):
        with files.translate_errors(
            f"--config={given}", kind=errors.ConfigError
        ):
            path = pathlib.Path(given.partition(":")[0])
            if path.exists() and not path.is_file():
                raise errors.ConfigError(
                    f"--config={given}: it is not a regular file. Fix:"
                    " --config=configs/quickstart.py"
                )


def is_help(argv: list[str]) -> bool:
    """Returns whether a command line asks for help."""
    return bool({"--help", "-h", "--helpfull"} & set(argv))


def help_text() -> str:
    """Returns the modes and flags, with their help."""
    listed = flags.FLAGS.module_help(sys.modules[__name__])
    return f"modes: {', '.join(MODES)}\n\n{listed}"


def _one_line(error: BaseException) -> str:
    """Returns the part of a parser's error that a user needs, as one line."""
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        # ml_collections quotes the name once or twice, with or without a hint.
        name = re.match(r"\W*(\w+)", text)
        hint = re.search(r"Did you mean.*?\?", text)
        if name and " " not in text.partition("Did")[0]:
            fix = hint[0] if hint else "configs/default.py has them all"
            return f"--config has no field {name[1]!r}; {fix}"
    if "Traceback" in text:
        # ml_collections quotes the config file's own error: its last line.
        text = text.strip().splitlines()[-1]
    # Config files raise ValueError with a text of their own.
    text = text.removeprefix("ValueError: ")
    if "get_config() takes 0 positional arguments" in text:
        text = "--config: the file has no variants; leave its colon out"
    elif not isinstance(error, flags.Error):
        text = f"--config cannot be read: {type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text).strip()[:500]


def require_config() -> ml_collections.ConfigDict:
    """Returns the checked config, with its preset expanded.

    Raises:
      ConfigError: --config is missing, unreadable or has a wrong value.
    """
    config = CONFIG.value
    if config is None:
        raise errors.ConfigError(
            "--config is missing; a first one is --config=configs/quickstart.py"
        )
    try:
        if not hasattr(config, "unlock"):
            raise errors.ConfigError(
                f"--config={config_filename()}: get_config() returned no"
                " ConfigDict"
            )
        explicit = config_flags.get_override_values(flags.FLAGS["config"])
        augmentation.use_preset(config, explicit)
        ranges.check(config)
        distribute = config.distribute
        if required_gpus() > distribute.require_gpus:
            distribute.require_gpus = required_gpus()
            ranges.check(config)  # The rules apply to the image's GPUs too.
    except OSError as error:  # ml_collections reports a failed load only here.
        cause = str(error).strip().splitlines()[-1].strip()
        raise errors.ConfigError(f"--config cannot be read: {cause}") from None
    return config


def config_filename() -> str:
    """Returns the config file and variant as typed, FILE[:VARIANT]."""
    return flags.FLAGS["config"].config_filename


def child_arguments() -> list[str]:
    """Returns the flags that an ablation hands on to each of its runs.

    They may stand on the command line or in a --flagfile, in any spelling.
    """
    changed = config_flags.get_override_values(flags.FLAGS["config"])
    return [f"--config.{name}={value}" for name, value in changed.items()] + [
        f"--{name}={flags.FLAGS[name].value}"
        for name in ("grace_seconds", "watchdog_seconds", "heartbeat_file")
        if flags.FLAGS[name].present
    ]


def required_gpus() -> int:
    """Returns the number of GPUs that JOB_REQUIRE_GPUS asks for.

    GPU images set the variable. It is not a flag, because a user's own
    arguments replace those of the image.
    """
    given = os.environ.get("JOB_REQUIRE_GPUS", "")
    if given and not (given.isdecimal() and len(given) < 7):
        raise errors.ConfigError(
            f"JOB_REQUIRE_GPUS={given} in the environment: it must be a"
            " number of GPUs, 0 for none"
        )
    return int(given or 0)


def require_workdir() -> str:
    """Returns --workdir; raises ConfigError if it is missing."""
    if not WORKDIR.value:
        raise errors.ConfigError("--workdir is missing, as in --workdir=runs/a")
    return WORKDIR.value


def require_seconds(name: str, *, above: float = -1.0) -> float:
    """Returns a flag's seconds; raises ConfigError if out of range.

    Args:
      name: Name of the flag.
      above: Exclusive lower bound.
    """
    value = flags.FLAGS[name].value
    if not 0 <= value <= _MAX_SECONDS or value <= above:
        wanted = "above 0" if above >= 0 else "at least 0"
        raise errors.ConfigError(
            f"--{name}={value:g}: it must be seconds, {wanted} and at most"
            f" {_MAX_SECONDS:g}, a month"
        )
    return value


def require_heartbeat_file() -> pathlib.Path | None:
    """Returns --heartbeat_file; raises ConfigError if it is not writable."""
    value = HEARTBEAT_FILE.value
    if not value:
        return None
    path = pathlib.Path(value)
    name = f"--heartbeat_file={value}"
    with files.translate_errors(name, kind=errors.ConfigError):
        # A device node would be replaced by a file.
        is_other = path.exists() and not path.is_file()
    if is_other or not os.access(path.parent, os.W_OK | os.X_OK):
        raise errors.ConfigError(
            f"{name}: no file can be written there. Fix: choose a path in a"
            " folder that exists and is writable"
        )
    return path
