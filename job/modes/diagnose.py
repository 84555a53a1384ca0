"""`--mode=diagnose`: findings on a config, a run or a Keras model."""

import contextlib
import os
import pathlib

import ml_collections

from configs import default
from job import errors
from job.config import resume, run_config, serialization
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.storage.workdir import CONFIG
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(
    config: ml_collections.ConfigDict | None,
    workdir_name: str | None,
    keras_model: str | None,
    stop: StopRequest,
) -> Outcome:
    """Returns the findings as text.

    Args:
      config: Checked config. If None, the workdir's.
      workdir_name: Workdir of a run. If None, `config` alone is diagnosed.
      keras_model: Path of a .keras file, diagnosed on the data of `config`.
      stop: Stop request, polled between two checks.

    Raises:
      ConfigError: There is nothing to diagnose, or the arguments conflict.
    """
    if keras_model:
        if workdir_name:
            raise errors.ConfigError(
                "--keras_model is of no run: leave --workdir out"
            )
        startup.import_tensorflow()
        from job.diagnose import diagnosis, finding

        path = pathlib.Path(os.path.expanduser(keras_model))
        report = diagnosis.diagnose_model(
            path, config or default.get_config(), stop
        )
        return Outcome([finding.to_text(report)])
    if config is None and not workdir_name:
        raise errors.ConfigError(
            "--mode=diagnose needs --config, --workdir or --keras_model"
        )
    with contextlib.ExitStack() as stack:
        workdir = None
        if workdir_name:
            workdir = stack.enter_context(workdirs.open_workdir(workdir_name))
            config = _config_of(workdir, config)
            if not workdir.mirror:
                workdir.check_writable()
        assert config is not None
        startup.import_tensorflow()
        from job.diagnose import diagnosis, finding

        with startup.translate_out_of_memory(serialization.flatten(config)):
            report = diagnosis.diagnose(config, workdir, stop)
    return Outcome([finding.to_text(report)])


def _config_of(
    workdir: workdirs.Workdir, given: ml_collections.ConfigDict | None
) -> ml_collections.ConfigDict:
    """Returns the config of the run in `workdir`, or `given` if it fits."""
    if not (workdir.local / CONFIG).exists() and given is not None:
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
