"""Mode predict, which classifies image files with a trained network."""

from collections.abc import Iterator, Sequence

from absl import logging

from job import errors
from job.config import run_config
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(
    workdir_name: str,
    inputs: Sequence[str],
    stop: StopRequest,
    *,
    output_format: str,
) -> Outcome:
    """Classifies images with a run's newest checkpoint.

    Args:
      workdir_name: Workdir of the run.
      inputs: PNG or JPEG files, folders of them, or gs:// paths of either.
      stop: Stop request, polled between two batches.
      output_format: Format of the answers, table or jsonl.

    Raises:
      ConfigError: No input was given, or the workdir does not contain a run.
      DataError: Some files are unreadable. It is raised after the last line.
    """
    names = [name for name in inputs if name]
    if not names:
        raise errors.ConfigError(
            "--input is missing. Fix: add --input=FILE with an image file, a"
            " folder or the gs:// path of either"
        )
    with workdirs.open_workdir(workdir_name) as workdir:
        config = run_config.load(workdir)
        from job.data import image_file

        files = image_file.find(names)
        startup.import_tensorflow()
        from job import trained as trained_lib
        from job.model import classify

        with startup.translate_out_of_memory():
            trained = trained_lib.load_trained(workdir)
        if config.data.source == "synthetic":
            logging.warning(
                "--workdir=%s: this network was trained on synthetic images, so"
                " its answers for photographs are meaningless. Fix: use a run"
                " on CIFAR-10, such as configs/stem32.py:10ep",
                workdir,
            )

    def answers() -> Iterator[classify.Answer]:
        with startup.translate_out_of_memory():
            yield from classify.predict(
                files,
                trained.network,
                trained.resize,
                trained.class_names,
                poll=stop.check,
            )

    def lines() -> Iterator[str]:
        width = min(60, max(len(file.name) for file in files))
        unread = 0
        for answer in answers():
            unread += bool(answer.error)
            if output_format == "jsonl":
                yield classify.to_json(answer)
            else:
                yield classify.to_row(answer, width)
        if unread:
            raise errors.DataError(
                f"--input: {unread} of {len(files)} files could not be read."
                " Fix: see the reasons in their rows above"
            )

    return Outcome(lines())
