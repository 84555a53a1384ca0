"""Workdir of a run, a folder or a path in a bucket.

    with open_workdir("gs://bucket/runs/a") as workdir:
        workdir.check_writable()         # raises an error with a fix
        with workdir.uploading(seconds=60):
            ...                          # modules write to workdir.local

Checkpoints are written to the bucket itself, by a protocol of their own. All
other files are small. Modules read and write them in a local folder, which for
a bucket is a temporary one that `sync` uploads. Imports no TensorFlow.

The constants of this module are the names of all files of a workdir, which no
other module spells out:

    from job.storage.workdir import RESULT

    files.write_json(workdir / RESULT, result)
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from absl import logging

from job import errors
from job.storage import Storage, disk, files
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
# Results of a finished run.
PREDICTIONS = "predictions.npz"
RESULT = "result.json"
REPORT = "report.html"
# Output of the other modes.
EXPORT = "export"
BENCHMARK = "benchmark.json"
DIAGNOSE = "diagnose.json"
# An ablation's list of runs, and the mark of a run that diverged.
ABLATION = "ablation.json"
FAILURE = "failure.json"
# Comparison of several runs: the page, its table and its plots.
COMPARE_PAGE = "compare.html"
COMPARE_CSV = "compare.csv"
COMPARISON = "report.md"
WATERFALL = "waterfall.png"
CURVES = "curves.png"

# The files that a resumed run or a report reads, or a run removes.
PULLED = frozenset(
    {
        ABLATION,
        AUGMENTATION,
        CONFIG,
        DIAGNOSE,
        FAILURE,
        METRICS,
        PREDICTIONS,
        REPORT,
        RESULT,
        STARTS,
    }
)


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Workdir of a run.

    Attributes:
      local: Folder that modules read and write. It need not exist.
      name: Name as typed, a folder or gs://BUCKET/PATH. Defaults to the path of
        `local`.
      mirror: Upload from `local` to the bucket. None for a folder.
    """

    local: pathlib.Path
    name: str = ""
    mirror: Mirror | None = None

    def __str__(self) -> str:
        return self.name or str(self.local)

    def file(self, name: str) -> str:
        """Returns the path or URL of a file, as a user finds it."""
        return f"{str(self).rstrip('/')}/{name}"

    def storage(self, folder: str) -> Storage:
        """Returns a subfolder as a storage."""
        if not self.mirror:
            return disk.Disk(self.local / folder)
        # The import takes half a second.
        from job.storage import gcs

        return gcs.Bucket(self.file(folder))

    @property
    def root(self) -> Storage:
        """Storage of all files of the run."""
        return self.storage("")

    @functools.cached_property
    def checkpoints(self) -> Storage:
        """Storage of the run's checkpoints."""
        return self.storage(CHECKPOINTS)

    def check_writable(self) -> None:
        """Checks that a run can write to the workdir, before it starts.

        Raises:
          ConfigError: The folder is a file or cannot be written to.
          StorageError: The bucket does not exist, cannot be reached, or the
            job's account may not write to it.
        """
        if self.mirror:
            self.checkpoints.check_writable()
            return
        for folder in (self.local, *self.local.parents):
            if folder.exists():
                if not folder.is_dir():
                    raise errors.ConfigError(
                        f"--workdir={self}: {folder} is a file, not a folder."
                        " Fix: choose another workdir"
                    )
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise errors.ConfigError(
                        f"--workdir={self}: {folder} is not writable. Fix:"
                        " choose another workdir"
                    )
                break

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks a folder for this process until the end of the block.

        The lock ends with the process. A bucket and some network disks have
        none. There, the first commit decides.

        Raises:
          LostRaceError: Another process trains the run.
        """
        if self.mirror:
            yield
            return
        is_new = not self.local.exists()
        with files.translate_errors(f"--workdir={self}"):
            self.local.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.local, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise errors.LostRaceError(
                    f"--workdir={self}: another process is training this run."
                    " Fix: wait for its end, or choose another workdir"
                ) from None
            except OSError as error:
                logging.info(
                    "Continuing without a lock on %s: %s", self, error.strerror
                )
            yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):  # The folder has files.
                    self.local.rmdir()
            os.close(folder)

    def push(self, only: str | None = None) -> None:
        """Uploads changed files now, or one of them; raises StorageError."""
        if self.mirror:
            self.mirror.push(only=only)

    def push_last(self) -> None:
        """Uploads changed files with a long timeout, as the last call."""
        if self.mirror:
            self.mirror.push(LAST_SECONDS)

    @contextlib.contextmanager
    def uploading(
        self,
        *,
        seconds: float,
        is_owner: Callable[[], bool] = lambda: True,
    ) -> Iterator[None]:
        """Uploads changed files at intervals, and at the end of the block.

        Args:
          seconds: Interval between two uploads to a bucket, in seconds.
          is_owner: Function that returns whether the files may replace those in
            the bucket. Before that, only the files of a finished run are
            uploaded.

        Raises:
          StorageError: The files of a finished run could not be uploaded.
        """
        if self.mirror:
            with self.mirror.uploading(seconds, is_owner):
                yield
        else:
            yield


@contextlib.contextmanager
def open_workdir(name: str) -> Iterator[Workdir]:
    """Opens a workdir, which need not exist, and writes nothing to it.

    Args:
      name: Name of a folder or gs://BUCKET/PATH. The files of an earlier
        attempt are downloaded from a bucket, to a local folder that is deleted
        in the end.

    Raises:
      ConfigError: The name is neither a folder nor gs://BUCKET/PATH.
      StorageError: The bucket cannot be read.
    """
    try:
        name.encode()
    except UnicodeEncodeError:  # TensorFlow refuses such a path.
        raise errors.ConfigError(
            f"--workdir={name}: the name is not UTF-8. Fix: choose another name"
        ) from None
    if "://" not in name:
        local = pathlib.Path(os.path.expanduser(name))
        with (
            files.translate_errors(
                f"--workdir={name}",
                passing=(FileNotFoundError, NotADirectoryError),
                kind=errors.ConfigError,
            ),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            (local / CONFIG).stat()
        yield Workdir(local, name)
        return
    if not name.startswith("gs://"):
        raise errors.ConfigError(
            f"--workdir={name}: must be a folder or gs://BUCKET/PATH"
        )
    from job.storage import gcs

    url = name.rstrip("/")
    bucket = gcs.Bucket(url, timeout_seconds=gcs.PROBE_SECONDS)
    with tempfile.TemporaryDirectory(
        prefix="job-", ignore_cleanup_errors=True
    ) as folder_name:
        local = pathlib.Path(folder_name)
        mirror = Mirror(
            local, bucket, pulled=PULLED, last=RESULT, events=EVENTS
        )
        mirror.pull()
        yield Workdir(local, url, mirror)
