"""Mode fetch, which downloads and verifies the data set for later runs."""

import ml_collections

from job.modes import Outcome
from job.supervision import startup
from job.supervision.preemption import StopRequest


def run(config: ml_collections.ConfigDict, stop: StopRequest) -> Outcome:
    """Downloads and verifies the images that a run of `config` needs.

    With data.source=auto, they are downloaded to a data.dir that is absent or
    empty.

    Args:
      config: Checked config.
      stop: Stop request, polled between two files.

    Raises:
      DataError: The images are absent or damaged.
    """
    startup.import_tensorflow()
    from job.data import sources

    images = sources.load(
        config.data.source,
        config.data.dir,
        archive_sha256=config.data.archive_sha256,
        download=True,
        poll=stop.check,
    )
    if images.source == "synthetic":
        return Outcome(["Nothing was fetched: the config has synthetic images"])
    folder = config.data.dir or "the folder of tensorflow-datasets"
    return Outcome(
        [
            f"CIFAR-10 is complete in {folder} (source {images.source}):"
            f" {len(images.train):,} training and {len(images.test):,} test"
            " images"
        ]
    )
