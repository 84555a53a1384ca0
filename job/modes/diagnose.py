"""Mode diagnose, which reports findings on a config, run or Keras model."""

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ml_collections

from job import errors
from job.config import resume, run_config, serialization
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.storage.workdir import CONFIG, REPORT
from job.supervision import startup
from job.supervision.preemption import StopRequest

if TYPE_CHECKING:
    from job.diagnose.finding import Report


def run(
    config: ml_collections.ConfigDict | None,
    workdir_name: str | None,
    stop: StopRequest,
    *,
    keras_model: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    command: Sequence[str] = (),
    output_format: str | None = "table",
) -> Outcome:
    """Returns the findings on a config, a run or a Keras model.

    Args:
      config: Checked config. If None, that of the workdir. With a Keras model
        it names the data set, which is optional.
      workdir_name: Workdir of a run. If None, `config` alone is diagnosed.
      stop: Stop request, polled between two checks.
      keras_model: Path of a .keras file. If None, there is no Keras model.
      images: Path of a .npy file of images for the model, instead of a data
        set.
      labels: Path of a .npy file of their labels.
      command: Arguments of the command that trains `config`. If empty, no
        command is shown.
      output_format: Format of the report, json or any other value for text.

    Raises:
      ConfigError: Nothing was given to diagnose, or the arguments conflict.
      DataError: A file is absent, damaged or of the wrong kind.
    """
    if bool(images) != bool(labels):
        given, missing = (
            ("images", "labels") if images else ("labels", "images")
        )
        raise errors.ConfigError(
            f"--{given}={images or labels}: --{missing} is missing. Fix: add"
            f" --{missing}=FILE"
        )
    if keras_model and workdir_name:
        raise errors.ConfigError(
            f"--keras_model={keras_model}: cannot be combined with"
            " --workdir. Fix: leave out --workdir"
        )
    if keras_model:
        startup.import_tensorflow()
        from job.diagnose import diagnosis

        model, x, y = (
            pathlib.Path(os.path.expanduser(name or ""))
            for name in (keras_model, images, labels)
        )
        with startup.translate_out_of_memory():
            report = diagnosis.diagnose_model(
                model,
                stop,
                config=config,
                images=x if images else None,
                labels=y if labels else None,
            )
        return _show(report, output_format)
    if images:
        raise errors.ConfigError(
            f"--images={images}: --keras_model is missing. Fix: add"
            " --keras_model=FILE"
        )
    if config is None and not workdir_name:
        raise errors.ConfigError(
            "--mode=diagnose: no subject was given. Fix: add --config=NAME,"
            " --workdir=DIR or --keras_model=FILE"
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
        if workdir and not workdir.mirror:
            _update_page(workdir)
    return _show(report, output_format)


def _show(report: "Report", output_format: str | None) -> Outcome:
    from job.diagnose import finding

    if output_format == "json":
        return Outcome([json.dumps(finding.to_json(report), indent=1)])
    return Outcome([finding.to_text(report)])


def _update_page(workdir: workdirs.Workdir) -> None:
    """Rewrites the page of a run, if there is one, to show the diagnosis."""
    from job.report import page
    from job.report import run as run_lib

    if run_lib.is_run(workdir.local) and (workdir.local / REPORT).exists():
        page.write(workdir)


def _config_of(
    workdir: workdirs.Workdir, given: ml_collections.ConfigDict | None
) -> ml_collections.ConfigDict:
    """Returns the config of the run in `workdir`, or `given` if it fits."""
    if not (workdir.local / CONFIG).exists() and given is not None:
        return given
    saved = run_config.load(workdir)
    if given is None:
        return saved
    changed = resume.differences(
        serialization.flatten(saved), serialization.flatten(given)
    )
    if changed:
        raise errors.ConfigError(
            f"--workdir={workdir}: the workdir contains a run of another config"
            f" ({'; '.join(changed[:3])}). Fix: leave out --config, or choose"
            " another workdir"
        )
    return given
