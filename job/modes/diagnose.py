"""`--mode=diagnose`: findings on a config, a run or a Keras model."""

import contextlib
import json
import os
import pathlib
from typing import TYPE_CHECKING

import ml_collections

from job import errors
from job.config import resume, run_config, serialization
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.storage.workdir import CONFIG
from job.supervision import startup
from job.supervision.preemption import StopRequest

if TYPE_CHECKING:
    from job.diagnose.finding import Report


def run(
    config: ml_collections.ConfigDict | None,
    workdir_name: str | None,
    stop: StopRequest,
    *,
    command: str = "",
    output_format: str = "table",
) -> Outcome:
    """Returns the findings on a config or a run.

    Args:
      config: Checked config. If None, the workdir's.
      workdir_name: Workdir of a run. If None, `config` alone is diagnosed.
      stop: Stop request, polled between two checks.
      command: Command of a run of `config`, without a workdir.
      output_format: json, or table for text.

    Raises:
      ConfigError: There is nothing to diagnose, or the arguments conflict.
    """
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
        from job.diagnose import diagnosis

        with startup.translate_out_of_memory(serialization.flatten(config)):
            report = diagnosis.diagnose(config, workdir, stop, command=command)
    return _show(report, output_format)


def run_model(
    keras_model: str,
    stop: StopRequest,
    *,
    config: ml_collections.ConfigDict | None = None,
    images: str | None = None,
    labels: str | None = None,
    output_format: str = "table",
) -> Outcome:
    """Returns the findings on a Keras model.

    Args:
      keras_model: Path of a .keras file.
      stop: Stop request, polled between two checks.
      config: Config that names the data. None if there is no data set.
      images: Path of a .npy file of images, instead of a data set.
      labels: Path of a .npy file of their labels.
      output_format: json, or table for text.

    Raises:
      ConfigError: Only one of `images` and `labels` is given.
      DataError: A file is absent, damaged or not what it should be.
    """
    if bool(images) != bool(labels):
        raise errors.ConfigError("--images and --labels belong together")
    startup.import_tensorflow()
    from job.diagnose import diagnosis

    model, x, y = (
        pathlib.Path(os.path.expanduser(name)) if name else None
        for name in (keras_model, images, labels)
    )
    assert model is not None
    report = diagnosis.diagnose_model(
        model, stop, config=config, images=x, labels=y
    )
    return _show(report, output_format)


def _show(report: "Report", output_format: str) -> Outcome:
    from job.diagnose import finding

    if output_format == "json":
        return Outcome([json.dumps(finding.to_json(report), indent=1)])
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
