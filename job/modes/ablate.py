"""Mode ablate, which trains the runs of an ablation plan one after another.

    plan = AblationPlan.load("configs/ablations.py:ladder", seeds=(0, 1))
    run_plan(plan, workdir, ["--config.data.dir=DIR"], StopRequest())

A plan is a config file with two functions. `get_variants(plan)` returns the
names of the runs, and `get_config("PLAN/VARIANT")` the config of one. The
optional `CUMULATIVE` maps a plan to the variants that add to the one before
them. Each run is a process with the command that a user would type. A run that
diverges is a result, but any other failure ends the ablation. Repeating the
command resumes it, and a finished run ends immediately. Imports no TensorFlow.
"""

import dataclasses
import functools
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import logging

from job import errors
from job.modes import Outcome
from job.output import ablation
from job.storage import files, reader
from job.storage import workdir as workdirs
from job.storage.workdir import ABLATION, FAILURE
from job.supervision.preemption import PARENT_VARIABLE, StopRequest

_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class AblationPlan:
    """The runs of an ablation.

    Attributes:
      file: Path of the config file.
      name: Name of the plan in the file.
      variants: Names of the variants. The others are compared with the first.
      seeds: Seeds of each variant.
      cumulative: Variants that add to the one before them.
    """

    file: str
    name: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    cumulative: tuple[str, ...] = ()

    @classmethod
    def load(cls, config: str, seeds: Sequence[int]) -> "AblationPlan":
        """Returns the plan that `--config=FILE:NAME` names.

        Raises:
          ConfigError: The file or the plan does not exist.
        """
        file, _, name = config.partition(":")
        try:
            module = runpy.run_path(file)
            variants = module["get_variants"](name)
        except (OSError, KeyError, ValueError) as error:
            raise errors.ConfigError(
                f"--config={config}: the config is not an ablation plan"
                f" ({error}). Fix: use --config=configs/ablations.py:ladder"
            ) from None
        cumulative = tuple(module.get("CUMULATIVE", {}).get(name, ()))
        return cls(file, name, tuple(variants), tuple(seeds), cumulative)

    def runs(self) -> list[tuple[str, int]]:
        """Returns (variant, seed) of each run, all variants of a seed first."""
        return [(name, seed) for seed in self.seeds for name in self.variants]


def run(
    config_filename: str,
    workdir_name: str,
    stop: StopRequest,
    *,
    strategy: str,
    seeds: Sequence[int],
    arguments: Sequence[str],
    index: int | None,
) -> Outcome:
    """Trains the runs of a plan that are not finished.

    Args:
      config_filename: Config file and plan, FILE:PLAN.
      workdir_name: Folder of the plan.
      stop: Stop request, passed to the current run.
      strategy: Field distribute.strategy of the plan's config.
      seeds: Seeds of each variant.
      arguments: Flags for each run.
      index: Index of the only run to train, from 0. Defaults to
        JOB_COMPLETION_INDEX of the environment, or to all runs.

    Raises:
      ConfigError: The plan or run does not exist, the workdir is a bucket, or
        the runs are for several nodes.
    """
    if strategy == "multi_worker":
        raise errors.ConfigError(
            "--config.distribute.strategy=multi_worker: --mode=ablate trains"
            " each run on one node, and JOB_COMPLETION_INDEX is the index of"
            " the run. Fix: use --config.distribute.strategy=auto"
        )
    if "://" in workdir_name:
        raise errors.ConfigError(
            f"--workdir={workdir_name}: --mode=ablate needs a folder. Fix: use"
            " --workdir=runs/NAME"
        )
    with workdirs.open_workdir(workdir_name) as workdir:
        workdir.check_writable()
    if index is None and (given := os.environ.get("JOB_COMPLETION_INDEX")):
        if not given.isdecimal():
            raise errors.ConfigError(
                f"JOB_COMPLETION_INDEX={given}: must be the index of a run,"
                " from 0"
            )
        index = int(given)
    plan = AblationPlan.load(config_filename, seeds)
    run_plan(plan, workdir.local, arguments, stop, index=index)
    return Outcome(
        [
            "All runs have ended. Next: compare them with --mode=report"
            f" --workdir={workdir.local}"
        ]
    )


def run_plan(
    plan: AblationPlan,
    workdir: pathlib.Path,
    arguments: Sequence[str],
    stop: StopRequest,
    *,
    index: int | None = None,
) -> None:
    """Trains the runs of a plan that are not finished.

    Args:
      plan: Plan of the ablation.
      workdir: Folder above those of the runs, created if absent.
      arguments: Flags for each run, such as --config.data.dir=DIR.
      stop: Stop request, passed to the current run.
      index: Index in `plan.runs()` of the only run to train. If None, all
        runs are trained.

    Raises:
      ConfigError: The index is out of range.
      RunFailedError: A run failed other than by divergence.
    """
    runs = plan.runs()
    if index is not None and not 0 <= index < len(runs):
        raise errors.ConfigError(
            f"--index={index}: must be 0 to {len(runs) - 1}, as the plan has"
            f" {len(runs)} runs"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(
        workdir / ABLATION,
        {
            "plan": f"{plan.file}:{plan.name}",
            "variants": plan.variants,
            "seeds": plan.seeds,
            "cumulative": plan.cumulative,
            "arguments": list(arguments),
        },
    )
    for number, (variant, seed) in enumerate(runs):
        if index is not None and number != index:
            continue
        stop.check()
        where = ablation.run_folder(workdir, variant, seed)
        command = [
            *(sys.executable, "-m", "job.main"),
            f"--config={plan.file}:{plan.name}/{variant}",
            f"--workdir={where}",
            *arguments,
            f"--config.seed={seed}",
        ]
        logging.info(
            "Starting run %d of %d: %s",
            number + 1,
            len(runs),
            shlex.join(command),
        )
        if _failed(where, command):
            logging.info(
                "Skipped the run, which diverged in an earlier attempt"
            )
            continue
        code = _run(command, stop)
        if code == errors.DivergedError.exit_code:
            # The run may have written the cause.
            failure = _read_failure(where) or {"exit_code": code}
            failure["command"] = shlex.join(command)
            files.write_json(where / FAILURE, failure)
        elif code:
            stop.check()  # The run was stopped with the ablation.
            raise errors.RunFailedError(
                f"{where}: the run exited with code {code}. Fix: see its last"
                " line above",
                code,
            )
        else:
            (where / FAILURE).unlink(missing_ok=True)


def _failed(where: pathlib.Path, command: Sequence[str]) -> bool:
    """Returns whether a run of this command has ended without a result."""
    return _read_failure(where).get("command") == shlex.join(command)


def _read_failure(where: pathlib.Path) -> dict[str, Any]:
    read = functools.partial(reader.read_json, where / FAILURE, dict)
    return reader.inspect(read).value or {}


def _run(command: Sequence[str], stop: StopRequest) -> int:
    """Runs a command, forwards a stop request, and returns the exit code."""
    terminated = False
    # The run has a process group of its own, because a terminal sends Ctrl-C to
    # a group. Together with the forwarded signal, the run would get two, and
    # the second one ends it immediately. The run also has to notice that this
    # process has ended.
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    with subprocess.Popen(command, process_group=0, env=environment) as process:
        while True:
            try:
                return process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if stop.requested and not terminated:
                    process.terminate()
                    terminated = True
