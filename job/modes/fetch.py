"""`--mode=fetch`: downloads and verifies the data set for later runs."""

import ml_collections

from job.modes import Outcome
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(config: ml_collections.ConfigDict, stop: StopRequest) -> Outcome:
    """Loads the images that a run of `config` would load.

    Args:
      config: Checked config.
      stop: Stop request, polled between two files.

    Raises:
      DataError: The images are absent or damaged.
    """
    stop.saved = "what was fetched before is kept"
    startup.import_tensorflow()
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
    where = config.data.dir or "as TFDS"
    return Outcome([f"{counts} images are there, whole: {where}"])
