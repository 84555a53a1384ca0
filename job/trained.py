"""Trained network, restored from a run's workdir.

trained = load_trained(Workdir(pathlib.Path("runs/a")))
trained.network(trained.resize(images), training=False)
"""

import dataclasses
import pathlib

import keras
import ml_collections
from absl import logging

from job import build, errors
from job.checkpoint import store
from job.config import resume, run_config, serialization
from job.data import sources
from job.distribute import strategy as strategy_lib
from job.model import resize as resize_lib
from job.output import predictions, results
from job.storage.workdir import CONFIG, PREDICTIONS, Workdir
from job.training.state import load_evaluated


@dataclasses.dataclass(frozen=True)
class Trained:
    """Trained network, restored from a run's newest checkpoint.

    Attributes:
      config: Config of the run.
      network: Network in float32 with the weights that evaluation uses.
      resize: Resize layer in front of the network.
      class_names: Names of the classes, in the order of the labels.
      step: Step of the checkpoint.
      data_crc32c: Checksum of the training images.
    """

    config: ml_collections.ConfigDict
    network: keras.Model
    resize: resize_lib.Resize
    class_names: tuple[str, ...]
    step: int
    data_crc32c: str


def load_trained(workdir: Workdir) -> Trained:
    """Returns the network of a run's newest checkpoint, without its images.

    Args:
      workdir: Workdir of the run, finished or not.

    Raises:
      ConfigError: `workdir` does not contain a run.
      ResumeError: The run has no usable checkpoint.
    """
    config = run_config.load(workdir)
    fields = serialization.flatten(config)
    checkpoints = store.CheckpointStore(workdir.checkpoints)
    found = checkpoints.restore_newest(set_aside=False)
    if found is None:
        raise errors.ResumeError(
            f"--workdir={workdir}: the run has no checkpoint yet. Fix: train"
            " first"
        )
    saved, tensors = found
    if changed := resume.differences(saved.run.get("config", {}), fields):
        raise errors.ResumeError(
            f"{checkpoints}: the checkpoint of step {saved.step} does not"
            f" belong to {CONFIG} ({'; '.join(changed)}). Fix: undo the change"
        )
    # The call enables memory growth on GPUs and disables TF32.
    strategy_lib.create_strategy()
    class_names = load_class_names(workdir.local, config.data.source)
    network = build.create_model(
        config, "float32", num_classes=len(class_names)
    )
    try:
        load_evaluated(network, tensors)
    except KeyError as error:
        raise errors.ResumeError(
            f"{checkpoints}: the checkpoint of step {saved.step} does not match"
            f" the network ({error.args[0]}). Fix: choose another workdir"
        ) from None
    if results.finished(workdir, fields) is None:
        logging.warning(
            "Using the weights of step %d of an unfinished run", saved.step
        )
    return Trained(
        config=config,
        network=network,
        resize=build.create_resize(config),
        class_names=class_names,
        step=saved.step,
        data_crc32c=str(saved.run.get("data_crc32c", "")),
    )


def load_class_names(workdir: pathlib.Path, source: str) -> tuple[str, ...]:
    """Returns the names of a run's classes, in the order of the labels.

    They come from the predictions of a finished run, or from the data source of
    an unfinished one.

    Args:
      workdir: Folder of the run.
      source: Data source of the run; see `sources.load`.
    """
    saved = predictions.load(workdir / PREDICTIONS)
    return saved.class_names if saved else sources.class_names(source)
