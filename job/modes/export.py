"""Mode export, which writes a SavedModel, a .keras file and a model card."""

from absl import logging

from job.config import run_config
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.storage.workdir import EXPORT
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(workdir_name: str, stop: StopRequest) -> Outcome:
    """Writes WORKDIR/export/ from a run's newest checkpoint.

    Args:
      workdir_name: Workdir of the run.
      stop: Stop request, polled between two parts.
    """
    with workdirs.open_workdir(workdir_name) as workdir:
        run_config.load(workdir)
        workdir.check_writable()
        startup.import_tensorflow()
        from job import trained as trained_lib
        from job.model import export
        from job.report import card
        from job.report import run as run_lib

        with startup.translate_out_of_memory():
            trained = trained_lib.load_trained(workdir)
            stop.check()
            about = run_lib.read(workdir)
            logging.set_verbosity(logging.WARNING)  # TensorFlow logs each save.
            difference = export.export(
                trained.network,
                trained.resize,
                workdir.local / EXPORT,
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
    return Outcome(
        [
            f"{workdir.file(EXPORT)}: {export.SAVED_MODEL},"
            f" {export.KERAS} and {export.CARD}, of step {trained.step}; within"
            f" {difference:.1g} of the checkpoint"
        ]
    )
