"""Command-line flags of the job, their help, and errors for wrong ones.

flags.parse(["job", "--config=configs/stem32.py", "--workdir=runs/a"])
config = flags.require_config()
"""

import os
import pathlib
import re
import textwrap
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from job import errors
from job.config import augmentation, command_line, ranges, serialization
from job.distribute import environment
from job.storage import files
from job.supervision import interpreter, preemption, watchdog

# Purpose of each mode, and the flags that it needs.
MODES = {
    "train": ("Train, or resume the run", "--config, --workdir"),
    "config": ("Print every field of the config", "--config"),
    "fetch": ("Download and verify the images", "--config"),
    "evaluate": ("Score the newest checkpoint", "--workdir"),
    "predict": ("Classify image files", "--workdir, --input"),
    "export": ("Write a SavedModel and a .keras file", "--workdir"),
    "diagnose": ("Explain a low accuracy", "--config, --workdir or a model"),
    "ablate": ("Train the variants of a plan", "--config, --workdir"),
    "report": ("Write a run's page, or compare runs", "--workdir"),
    "benchmark": ("Measure the training speed", "--config"),
}

# Largest value of a flag in seconds, which the system's waits accept.
_MAX_SECONDS = 30 * 86400.0

# Arguments that the parser of --config reads, filled by `parse`. Its default,
# sys.argv, would be read while the flag is defined, where a wrong --flagfile
# raises outside of `parse`.
_ARGV: list[str] = []

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Use this config file, or the one of this name in configs/.",
    lock_config=True,
    sys_argv=_ARGV,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Write all output to this folder or gs://BUCKET/PATH."
)
UPLOAD_SECONDS = flags.DEFINE_float(
    "upload_seconds",
    60.0,
    "Upload metrics, events and results to a gs:// workdir at this interval in"
    " seconds. Checkpoints are uploaded immediately.",
    lower_bound=1.0,
)
SEEDS = flags.DEFINE_integer(
    "seeds",
    1,
    "Train this number of seeds per variant, starting at --config.seed.",
    lower_bound=1,
)
INDEX = flags.DEFINE_integer(
    "index",
    None,
    "Train only the run of this index, from 0. Defaults to JOB_COMPLETION_INDEX"
    " of the environment, or to all runs.",
    lower_bound=0,
)
RUNS = flags.DEFINE_list(
    "runs", [], "Compare the runs of these workdirs, and write to --workdir."
)
INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "Classify this PNG or JPEG file, folder of them, or gs:// path of either."
    " May be repeated.",
)
FORMAT = flags.DEFINE_enum(
    "format",
    "table",
    ["table", "jsonl", "json"],
    "Print the answer as table, jsonl (predict) or json (diagnose).",
)
KERAS_MODEL = flags.DEFINE_string(
    "keras_model",
    None,
    "Diagnose this .keras file, on the images of --config.data.dir, or of"
    " --images and --labels.",
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Use these images for --keras_model, preprocessed as for its training, a"
    " .npy file of [n, height, width, 3].",
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Use these labels of --images, a .npy file of [n], or one-hot.",
)
MODE = flags.DEFINE_enum("mode", "train", list(MODES), "Run this mode.")
GRACE_SECONDS = flags.DEFINE_float(
    "grace_seconds",
    preemption.GRACE_SECONDS,
    "Expect a kill this many seconds after SIGTERM, and exit 2 s earlier. Use"
    " terminationGracePeriodSeconds (GKE Spot: 15) or docker stop --timeout.",
)
WATCHDOG_SECONDS = flags.DEFINE_float(
    "watchdog_seconds",
    watchdog.SECONDS,
    "Exit with 76 after this time without progress, in seconds. Compilation and"
    f" downloads get {watchdog.LONG_SECONDS:g}, a call of the compiled steps 10"
    " times its usual time. 0 disables.",
)
HEARTBEAT_FILE = flags.DEFINE_string(
    "heartbeat_file",
    None,
    "Rewrite this JSON file with phase, step and time at each progress, for a"
    " liveness probe on its age.",
)


_USAGE = """\
Train VGG16 on CIFAR-10, resume after a kill, and explain a low accuracy.

  python -m job.main --config=quickstart --workdir=runs/a
  python -m job.main --config=stem32:10ep --workdir=runs/b --config.data.dir=DIR
  python -m job.main --mode=diagnose --workdir=runs/b
  python -m job.main --mode=predict --workdir=runs/b --input=photo.png

--config.GROUP.FIELD=VALUE changes a field of the config. configs/default.py
explains all fields. Exit codes: 0 done, 2 flag or config, 3 data or storage,
4 cannot resume, 5 diverged, 69 devices absent, 74 no answer in time,
75 preempted (the same command resumes), 76 hung.

Modes, and the flags that they need"""

# Errors of absl's parsers, and the valid values.
_PARSER_ERRORS = (
    (r": value should be one of <(.*)>", r"one of \1"),
    (r": could not convert string to float.*", "a number"),
    (r": invalid literal for int.*", "a whole number"),
    (r": \('Non-boolean argument.*", "true or false"),
    (r": \S+ is not an? (positive|non-negative) integer", r"a \1 number"),
)

# Flags by the mode that they belong to, in the order of the help.
_SECTIONS = {
    "Every mode": (
        ("mode", "MODE"),
        ("config", "NAME[:VARIANT]"),
        ("workdir", "DIR"),
        ("grace_seconds", "SECONDS"),
    ),
    "--mode=train": (
        ("watchdog_seconds", "SECONDS"),
        ("heartbeat_file", "FILE"),
        ("upload_seconds", "SECONDS"),
    ),
    "--mode=predict": (("input", "FILE"), ("format", "FORMAT")),
    "--mode=diagnose": (
        ("keras_model", "FILE"),
        ("images", "FILE"),
        ("labels", "FILE"),
    ),
    "--mode=ablate": (("seeds", "NUMBER"), ("index", "NUMBER")),
    "--mode=report": (("runs", "DIR,DIR"),),
}


def parse(argv: list[str]) -> None:
    """Parses a command line, with its flags in any order.

    Args:
      argv: Program name and arguments.

    Raises:
      ConfigError: A flag is unknown or has a wrong value. The message names
        the nearest valid flag.
    """
    try:
        arguments = flags.FLAGS.read_flags_from_files(argv[1:])
        _ARGV[:] = [argv[0], *command_line.in_order(arguments)]
        command_line.add_default_config(_ARGV)
        command_line.check_fields(_ARGV)
        rest = flags.FLAGS(_ARGV)
    except errors.JobError:
        raise
    except flags.UnrecognizedFlagError as error:
        typed = command_line.find(error.flagname, _ARGV)
        raise command_line.unknown(
            typed, "unknown flag", flags=_own_flags(), modes=MODES
        ) from None
    except BaseException as error:
        # A config file is a program, which may raise any exception.
        raise errors.ConfigError(_one_line(error)) from None
    if rest[1:]:
        raise command_line.unknown(
            rest[1], "unexpected argument", flags=_own_flags(), modes=MODES
        )


def _own_flags() -> list[str]:
    return [name for section in _SECTIONS.values() for name, _ in section]


def is_help(argv: list[str]) -> bool:
    """Returns whether a command line requests help."""
    return argv[1:] == ["help"] or bool(
        {"--help", "-help", "-h", "--helpfull"} & set(argv)
    )


def help_text() -> str:
    """Returns the help text: examples, the modes, and the flags by mode."""
    lines = [_USAGE]
    for mode, (purpose, needs) in MODES.items():
        lines.append(f"  {mode:<11}{purpose:<37}{needs}")
    indent = " " * 6
    for title, section in _SECTIONS.items():
        lines += ["", title]
        for name, value in section:
            flag = flags.FLAGS[name]
            # absl adds the values of an enum and a note on repeated flags.
            text = re.sub(r"^<.*?>: |;\s+repeat.*", "", flag.help)
            if flag.default not in (None, []):
                is_float = isinstance(flag.default, float)
                text += f" Default: {flag.default:{'g' if is_float else ''}}."
            lines.append(f"  --{name}={value}")
            lines += textwrap.wrap(
                text, 80, initial_indent=indent, subsequent_indent=indent
            )
    return "\n".join(lines)


def _one_line(error: BaseException) -> str:
    """Returns the part of a parser's error that a user needs, as one line."""
    text = str(error)
    if "Traceback" in text:
        # ml_collections quotes the config file's traceback, which ends with
        # the error.
        text = text.strip().splitlines()[-1]
    # Config files raise ValueError with a text of their own.
    text = text.removeprefix("ValueError: ")
    given = next((a for a in _ARGV if a.startswith("--config=")), "--config")
    if "get_config() takes 0 positional arguments" in text:
        file = given.rpartition(":")[0]
        text = f"{given}: the config has no variants. Fix: use {file}"
    elif "no attribute 'get_config'" in text:
        text = f"{given}: the file does not define get_config(). Fix: define it"
    elif isinstance(error, flags.Error):
        text = re.sub(r"^flag (--\S+=.*?): ", r"\1: ", text)
        for pattern, expected in _PARSER_ERRORS:
            text = re.sub(pattern, f": must be {expected}", text)
        text = text.replace("|", ", ")
    else:
        text = f"{given}: {type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text).strip()[:500]


def require_config() -> ml_collections.ConfigDict:
    """Returns the checked config, with its preset expanded.

    Raises:
      ConfigError: --config is missing, unreadable or has a wrong value.
    """
    config = CONFIG.value
    if config is None:
        fix = "--config=quickstart"
        if "--workdir" in MODES[MODE.value][1] and not WORKDIR.value:
            fix += " --workdir=runs/a"
        raise errors.ConfigError(
            f"--config is missing. Fix: add {fix}, or see --help"
        )
    try:
        if not hasattr(config, "unlock"):
            raise errors.ConfigError(
                f"--config={config_filename()}: get_config() must"
                " return a ConfigDict"
            )
        explicit = config_flags.get_override_values(flags.FLAGS["config"])
        augmentation.use_preset(config, explicit)
        ranges.check(config)
        ranges.check_devices(
            serialization.flatten(config),
            required_gpus=environment.required_gpus(os.environ),
        )
    except OSError as error:  # ml_collections reports a failed load only here.
        cause = str(error).strip().splitlines()[-1].strip()
        raise errors.ConfigError(
            f"--config={config_filename()}: the file cannot be read ({cause})."
            " Fix: correct the file or its permissions"
        ) from None
    return config


def config_filename() -> str:
    """Returns the config file and variant as typed, FILE[:VARIANT]."""
    return flags.FLAGS["config"].config_filename


def diagnose_arguments() -> dict[str, Any]:
    """Returns the arguments of `modes.diagnose.run` that come from flags."""
    command = []
    if CONFIG.value:
        changed = config_flags.get_override_values(flags.FLAGS["config"])
        command = [
            *(interpreter.command(), "-m", "job.main"),
            f"--config={config_filename()}",
            *(f"--config.{name}={each}" for name, each in changed.items()),
            "--workdir=runs/fixed",
        ]
    return {
        "keras_model": KERAS_MODEL.value,
        "images": IMAGES.value,
        "labels": LABELS.value,
        "output_format": FORMAT.value,
        "command": command,
    }


def child_arguments() -> list[str]:
    """Returns the flags that an ablation passes to each of its runs.

    The command line or a --flagfile may have set them, in any spelling.
    """
    changed = config_flags.get_override_values(flags.FLAGS["config"])
    return [f"--config.{name}={value}" for name, value in changed.items()] + [
        f"--{name}={flags.FLAGS[name].value}"
        for name in ("grace_seconds", "watchdog_seconds", "heartbeat_file")
        if flags.FLAGS[name].present
    ]


def require_workdir() -> str:
    """Returns --workdir; raises ConfigError if it is missing."""
    if not WORKDIR.value:
        raise errors.ConfigError(
            "--workdir is missing. Fix: add --workdir=runs/a"
        )
    return WORKDIR.value


def require_seconds(name: str, *, above: float = -1.0) -> float:
    """Returns the value of a flag in seconds; raises ConfigError if invalid.

    Args:
      name: Name of the flag.
      above: Exclusive lower bound.
    """
    value = flags.FLAGS[name].value
    if not 0 <= value <= _MAX_SECONDS or value <= above:
        wanted = "above 0" if above >= 0 else "at least 0"
        raise errors.ConfigError(
            f"--{name}={value:g}: must be a time in seconds, {wanted} and at"
            f" most {_MAX_SECONDS:.0f} (30 days)"
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
            f"{name}: the file cannot be written. Fix: choose a file in a"
            " writable folder"
        )
    return path
