"""The commit protocol of checkpoints: save and restore.

    store = CheckpointStore(disk.Disk(folder), keep=2)
    store.save(step, tensors, run)       # committed when it returns
    found = store.restore_newest()       # (manifest, tensors), or None

A save first writes data files, under names that contain this process's id, so
that the files of a dead attempt never block the next one. Each file is durable
and was compared with the bytes in memory. Then MANIFEST.json is created
atomically, and only if there is none: this is the commit. A kill at any point
leaves the complete checkpoint or none, and never damages an older one. Files go
through `storage.Storage`. Imports no TensorFlow.
"""

import dataclasses
import itertools
import pathlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint import layout, manifest, retention
from job.storage import Storage, disk, faults

# One file for each of a few upload threads, none too large to upload again.
FILE_BYTES = 32 * 2**20
# A writer does not commit files of its own that are older: another process may
# take them for abandoned ones. A third of `retention.ABANDONED_SECONDS`.
FRESH_SECONDS = 1200.0
# How often another process may delete a checkpoint while it is being read.
_READS = 5


@dataclasses.dataclass
class Packed:
    """A checkpoint that is ready to be written.

    Attributes:
      made: Manifest of the checkpoint.
      contents: Bytes of its files, in the manifest's order.
      begun: Time when its files were first written, by time.monotonic. None
        before that.
    """

    made: manifest.Manifest
    contents: list[bytes]
    begun: float | None = None

    @property
    def size(self) -> int:
        """Size of the data files in bytes."""
        return sum(file.size for file in self.made.files)


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(
        self,
        storage: Storage | pathlib.Path,
        *,
        keep: int = 2,
        best_by: str = "",
        process: str = "",
        file_bytes: int = FILE_BYTES,
        abandoned_seconds: float = retention.ABANDONED_SECONDS,
    ) -> None:
        """Opens a storage of checkpoints, which may be empty.

        Args:
          storage: Storage of the checkpoints, each in `step-00001234/`, or the
            path of a local folder.
          keep: Number of newest checkpoints to keep, at least 2: the newest one
            may turn out to be unreadable.
          best_by: Name of a score in a manifest's `run`; the checkpoint with
            the highest one is kept too. If "", only the newest are kept.
          process: Hexadecimal id that tells this process's files from those of
            others. If "", a random one.
          file_bytes: Size from which a further data file is begun.
          abandoned_seconds: See `retention.abandoned`.
        """
        if keep < 2:
            raise ValueError(f"keep is {keep}; it must be at least 2")
        if isinstance(storage, pathlib.Path):
            storage = disk.Disk(storage)
        self._storage: Storage = storage
        self._process = process or uuid.uuid4().hex[:12]
        self._file_bytes = file_bytes
        self._attempts = itertools.count(1)
        self._collector = retention.Collector(
            storage,
            keep=keep,
            best_by=best_by,
            abandoned_seconds=abandoned_seconds,
        )

    def __str__(self) -> str:
        return str(self._storage)

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> manifest.Manifest:
        """Saves a checkpoint, durably when this returns.

        Args:
          step: Training step of the checkpoint.
          tensors: Tensors by name; float or int, 32 or 64 bits.
          run: See `manifest.Manifest`.

        Raises:
          LostRaceError: Another process has committed this step or a later one.
          StorageError: The storage is full or cannot be written to. Older
            checkpoints are intact.
        """
        made = self.commit(self.pack(step, tensors, run))
        self.tidy(step)
        return made

    def pack(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> Packed:
        """Packs tensors into files, in memory; see `save`."""
        attempt = self._new_attempt()
        files, entries, contents = manifest.pack(
            tensors, attempt, self._file_bytes
        )
        made = manifest.Manifest(step, attempt, files, entries, run)
        return Packed(made, contents)

    def commit(
        self, packed: Packed, *, timeout: float | None = None
    ) -> manifest.Manifest:
        """Writes and commits a packed checkpoint; see `save` and `tidy`.

        May be called again after a failure: a commit of an earlier try whose
        answer was lost counts.

        Args:
          packed: Checkpoint as `pack` returned it.
          timeout: Limit for each of a few calls to the storage, in seconds. If
            None, the storage's own.
        """
        faults.reach("save.begin")
        try:
            self._commit(packed, timeout)
        except errors.StorageError as error:
            raise type(error)(
                f"the checkpoint of step {packed.made.step} cannot be written:"
                f" {error}"
            ) from None
        faults.reach("save.committed")
        return packed.made

    def tidy(
        self, newest: int, should_abort: Callable[[], bool] = lambda: False
    ) -> None:
        """Deletes checkpoints beyond `keep` and abandoned files.

        Logs errors and raises none: what is left, the next call deletes.

        Args:
          newest: Step that was committed just now.
          should_abort: Called before each deletion; if it returns True, the
            remaining ones are skipped.
        """
        self._collector.collect(newest, should_abort)
        faults.reach("save.end")

    def _commit(self, packed: Packed, timeout: float | None) -> None:
        self._refresh(packed, timeout)
        assert packed.begun is not None
        made = packed.made
        if self._is_committed(made, timeout):
            return
        names = [layout.file_name(made.step, file.name) for file in made.files]
        orphans = self._collector.orphans
        orphans |= {*names}
        self._storage.create(
            dict(zip(names, packed.contents, strict=True)), timeout=timeout
        )
        faults.reach("data.all")
        if time.monotonic() - packed.begun > FRESH_SECONDS:
            raise errors.UnavailableError("its files took too long")
        faults.reach("manifest.begin")
        # From here on a manifest may name them, even if the call below fails.
        orphans -= {*names}
        name = layout.file_name(made.step, manifest.NAME)
        content = made.to_json()
        try:
            self._storage.publish(name, content, timeout=timeout)
        except FileExistsError:
            # Written by this process, if the answer to an earlier try was lost.
            if not self._holds(name, content, timeout):
                orphans |= {*names}
                self._lose(made.step)

    def restore_newest(
        self, *, quarantine: bool = True
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        """Reads the newest intact checkpoint.

        A damaged one is quarantined by renaming its manifest, with an error in
        the log; then the one before is tried.

        Args:
          quarantine: Whether to rename damaged checkpoints. If False, they are
            only skipped, as another process may own the run.

        Returns:
          The manifest and all tensors; None if no checkpoint was ever
          committed.

        Raises:
          StorageError: The storage does not answer; nothing is quarantined.
          ResumeError: All checkpoints are damaged, or a later version of the
            job wrote the newest one. The user decides whether to start over.
        """
        for _ in range(_READS):
            try:
                return self._restore_newest(quarantine)
            except RetiredError:
                continue
        raise errors.UnavailableError(
            f"{self}: another process replaces its checkpoints faster than they"
            " can be read"
        )

    def _restore_newest(
        self, quarantine: bool
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        causes = []
        listing = layout.find(self._storage)
        for step in sorted(listing, reverse=True):
            names = {layout.base_name(entry.name) for entry in listing[step]}
            causes += [
                f"step-{step:08d}: put aside before ({name})"
                for name in sorted(names)
                if name.startswith(layout.QUARANTINED)
            ]
            if manifest.NAME not in names:
                continue
            try:
                return self.read(step)
            except manifest.NewerFormatError as error:
                raise errors.ResumeError(
                    f"{self}: step-{step:08d}: {error}; go on with the version"
                    " that wrote it, or choose another workdir"
                ) from None
            except manifest.InvalidCheckpointError as error:
                causes.append(f"step-{step:08d}: {error}")
                logging.error(
                    "damaged checkpoint: %s/step-%08d: %s", self, step, error
                )
                if quarantine:
                    self._quarantine(step)
        if causes:
            raise errors.ResumeError(
                f"{self} has no usable checkpoint ({'; '.join(causes)});"
                " to start over, choose another workdir or remove that folder"
            )
        return None

    def committed_steps(self) -> list[int]:
        """Returns the steps that have a manifest, ascending; reads no data."""
        return layout.committed(layout.find(self._storage))

    def newest_manifest(self) -> manifest.Manifest | None:
        """Returns the newest manifest without its tensors; None if none exists.

        The checkpoint's data is not read, and may be damaged.

        Raises:
          StorageError: The storage does not answer.
        """
        for step in reversed(self.committed_steps()):
            if made := layout.read_manifest(self._storage, step):
                return dataclasses.replace(made, tensors=())
        return None

    def read(
        self, step: int
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]]:
        """Reads and verifies the checkpoint of a committed step.

        Returns:
          The manifest and all tensors by name.

        Raises:
          InvalidCheckpointError: The checkpoint is damaged.
          NewerFormatError: See `manifest.from_json`.
          RetiredError: The checkpoint was deleted meanwhile.
          StorageError: The storage does not answer.
        """
        name = layout.file_name(step, manifest.NAME)
        try:
            (content,) = self._storage.read(name)
        except FileNotFoundError:
            raise RetiredError from None
        found = manifest.from_json(content)
        if found.step != step:
            raise manifest.InvalidCheckpointError(
                f"{manifest.NAME} is of step {found.step}"
            )
        try:
            contents = self._storage.read(
                *(layout.file_name(step, file.name) for file in found.files)
            )
        except FileNotFoundError as error:
            # Retiring a checkpoint deletes its manifest first.
            if name not in {e.name for e in self._storage.find(name)}:
                raise RetiredError from None
            raise manifest.InvalidCheckpointError(str(error)) from None
        return found, manifest.unpack(found, contents)

    def _new_attempt(self) -> str:
        """Returns an id for file names; a process may save a step twice."""
        return f"{self._process}{next(self._attempts):04x}"

    def _refresh(self, packed: Packed, timeout: float | None) -> None:
        """Renames pending files that may be considered abandoned elsewhere."""
        now = time.monotonic()
        if packed.begun is None:
            packed.begun = now
        elif now - packed.begun > FRESH_SECONDS / 2:
            attempt = self._new_attempt()
            files = tuple(
                dataclasses.replace(
                    file, name=file.name.replace(packed.made.attempt, attempt)
                )
                for file in packed.made.files
            )
            # A commit of the old names may have succeeded without an answer.
            if not self._is_committed(packed.made, timeout):
                packed.made = dataclasses.replace(
                    packed.made, attempt=attempt, files=files
                )
                packed.begun = now

    def _is_committed(
        self, made: manifest.Manifest, timeout: float | None
    ) -> bool:
        """Returns whether an earlier try of this very save has succeeded.

        Raises:
          LostRaceError: Another process has committed this step or a later one.
        """
        there = layout.committed(layout.find(self._storage, timeout))
        ahead = [s for s in there if s >= made.step]
        name = layout.file_name(made.step, manifest.NAME)
        if made.step in ahead and self._holds(name, made.to_json(), timeout):
            return True
        if ahead:
            self._lose(max(ahead))
        return False

    def _holds(self, name: str, content: bytes, timeout: float | None) -> bool:
        try:
            return self._storage.read(name, timeout=timeout) == [content]
        except FileNotFoundError:  # Retired meanwhile by another process.
            return False

    def _lose(self, step: int) -> None:
        self._collector.delete_orphans()
        raise errors.LostRaceError(
            f"another process has committed step-{step:08d}: this one ends"
        )

    def _quarantine(self, step: int) -> None:
        name = layout.file_name(step, manifest.NAME)
        aside = layout.file_name(
            step, f"{layout.QUARANTINED}{self._new_attempt()}"
        )
        faults.reach("quarantine.begin")
        try:
            self._storage.move(name, aside)
        except FileNotFoundError as error:
            logging.error("%s/%s cannot be renamed: %s", self, name, error)
        except errors.StorageError as error:
            # Left in place, it would look like another process that is ahead.
            raise type(error)(
                f"{self}: step-{step:08d} is damaged and cannot be put aside:"
                f" {error}"
            ) from None
        faults.reach("quarantine.end")


class RetiredError(Exception):
    """The checkpoint was deleted by the process that owns the run."""
