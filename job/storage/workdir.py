"""Where a run's files lie: a folder, or a bucket with a folder before it.

    workdir = open_workdir("gs://bucket/runs/a")
    workdir.check_writable()         # raises, saying what would do
    with workdir.kept_up(seconds=60):
        ...                          # rooms write into workdir.local

Checkpoints go where they belong by a protocol of their own. All else is small:
every module reads and writes it in a local folder, which for a bucket is a
temporary one, kept up by `sync`. Imports no TensorFlow.

The names of all files of a workdir are the constants of this module; no other
module spells them out:

    from job.storage.workdir import RESULT

    files.read_json(workdir / RESULT)
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

from job import errors
from job.storage import Storage, disk
from job.storage.sync import LAST_SECONDS, Mirror

# Every config field of the run, resolved.
CONFIG = "config.json"
# Restarts without progress.
STARTS = "starts.json"
CHECKPOINTS = "checkpoints"
# Metrics log: one line per logged step and split; TensorBoard's copy of it.
METRICS = "metrics.jsonl"
EVENTS = "events"
AUGMENTATION = "augmentation.png"
# What a finished run leaves.
PREDICTIONS = "predictions.npz"
RESULT = "result.json"
REPORT = "report.html"
# What the other modes write.
EXPORT = "export"
BENCHMARK = "benchmark.json"
DIAGNOSE = "diagnose.json"
RANGE_TEST = "range_test.png"
# An ablation's list of runs, and the mark of a run that diverged.
ABLATION = "ablation.json"
FAILURE = "failure.json"
# Comparison of several runs.
COMPARISON = "report.md"
WATERFALL = "waterfall.png"
CURVES = "curves.png"
ACCURACY_GFLOP = "accuracy_gflop.png"

# The files that a resumed run reads or removes.
RESUMED = frozenset(
    {
        AUGMENTATION,
        CONFIG,
        DIAGNOSE,
        METRICS,
        PREDICTIONS,
        REPORT,
        RESULT,
        STARTS,
    }
)


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Where a run's files lie.

    Attributes:
      name: as it was given; a folder or gs://BUCKET/PATH.
      local: the folder that rooms read and write; need not exist.
      mirror: between `local` and the bucket; None for a folder.
    """

    name: str
    local: pathlib.Path
    mirror: Mirror | None = None

    def __str__(self) -> str:
        return self.name

    def file(self, name: str) -> str:
        """Returns where people find a file of the run."""
        return f"{self.name.rstrip('/')}/{name}"

    def storage(self, folder: str) -> Storage:
        """Returns a folder in it, for `checkpoint.store`."""
        if not self.mirror:
            return disk.Disk(self.local / folder)
        # Half a second, for those who need it.
        from job.storage import gcs

        return gcs.Bucket(self.file(folder))

    @property
    def checkpoints(self) -> Storage:
        """The run's checkpoints."""
        return self.storage(CHECKPOINTS)

    def check_writable(self) -> None:
        """Tries what a run will do, before it takes any time.

        Raises:
          ConfigError: the folder is a file, or closed to us.
          StorageError: there is no such bucket, no right to write into it, or
            no way to it.
        """
        if self.mirror:
            self.checkpoints.check_writable()
            return
        for folder in (self.local, *self.local.parents):
            if folder.exists():
                if not folder.is_dir():
                    raise errors.ConfigError(
                        f"--workdir={self}: {folder} is a file, not a folder"
                    )
                if not os.access(folder, os.W_OK):
                    raise errors.ConfigError(
                        f"--workdir={self}: {folder} cannot be written to"
                    )
                break

    def push(self) -> None:
        """Copies what was written, now; raises StorageError."""
        if self.mirror:
            self.mirror.push()

    def push_last(self) -> None:
        """The same, with much patience: there may be no later copy."""
        if self.mirror:
            self.mirror.push(LAST_SECONDS)

    @contextlib.contextmanager
    def kept_up(self, *, seconds: float) -> Iterator[None]:
        """Copies what is written meanwhile to where it belongs.

        Args:
          seconds: between two copies to a bucket; and one at the end.

        Raises:
          StorageError: what a finished run left could not be copied.
        """
        if self.mirror:
            with self.mirror.kept_up(seconds):
                yield
        else:
            yield


@contextlib.contextmanager
def open_workdir(name: str) -> Iterator[Workdir]:
    """Opens a run's place, which need not exist; writes nothing to it.

    Args:
      name: a folder, or gs://BUCKET/PATH: then what an earlier start left there
        is fetched, and the local folder is removed in the end.

    Raises:
      ConfigError: it is neither.
      StorageError: the bucket cannot be read.
    """
    if "://" not in name:
        yield Workdir(name, pathlib.Path(os.path.expanduser(name)))
        return
    if not name.startswith("gs://"):
        raise errors.ConfigError(
            f"--workdir={name}: it must be a folder or gs://BUCKET/PATH"
        )
    from job.storage import gcs

    url = name.rstrip("/")
    bucket = gcs.Bucket(url, timeout_seconds=gcs.PROBE_SECONDS)
    with tempfile.TemporaryDirectory(
        prefix="job-", ignore_cleanup_errors=True
    ) as folder_name:
        local = pathlib.Path(folder_name)
        mirror = Mirror(
            local, bucket, pulled=RESUMED, last=RESULT, events=EVENTS
        )
        mirror.pull()
        yield Workdir(url, local, mirror)
