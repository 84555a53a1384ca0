"""Store of checkpoints with a commit protocol.

    store = CheckpointStore(disk.Disk(folder), keep=2)
    store.save(step, tensors, run)       # committed when it returns
    found = store.restore_newest()       # (header, tensors), or None

A checkpoint is one file, `step-00001234.safetensors`; see `format`. A commit
publishes it atomically, and only if its name is free. A kill at any point never
damages an older checkpoint. Files go through `storage.Storage`. Imports no
TensorFlow.
"""

import math
import pathlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint import format as format_lib
from job.checkpoint.format import (
    Header,
    InvalidCheckpointError,
    NewerFormatError,
)
from job.storage import Entry, Storage, disk

_PREFIX = "step-"
_NAME = re.compile(r"step-([0-9]{8,18})\.safetensors")
# A damaged checkpoint that was set aside.
SET_ASIDE = ".damaged-"
_SET_ASIDE = re.compile(r"step-[0-9]{8,18}\.safetensors\.damaged-.+")

# Timeout of each deletion, because a caller that waits for a save waits for it
# too.
_CALL_SECONDS = 5.0
# Size of the first range of a file if only its header is read.
_HEADER_RANGE_BYTES = 256 * 2**10
# Number of attempts to read, as another process may delete a checkpoint.
_READS = 5


class RetiredError(Exception):
    """Error for a checkpoint that the owner of the run has deleted."""


def file_name(step: int) -> str:
    """Returns the name of a checkpoint's file, relative to the storage."""
    return f"{_PREFIX}{step:08d}.safetensors"


def superseded(
    steps: Sequence[int], *, keep: int, scores: Mapping[int, float] | None
) -> list[int]:
    """Returns the steps whose checkpoints are no longer needed.

    Args:
      steps: Committed steps, ascending.
      keep: Number of newest checkpoints to keep.
      scores: Score of each committed step. The checkpoint with the highest
        score (the newest of equal ones) is kept too. If None, only the newest
        checkpoints are kept.
    """
    kept = {*steps[-keep:]}
    if scores:
        kept.add(max(steps, key=lambda step: (scores[step], step)))
    return [step for step in steps if step not in kept]


class CheckpointStore:
    """Store of the checkpoints of one run."""

    def __init__(
        self,
        storage: Storage | pathlib.Path,
        *,
        keep: int = 2,
        best_by: str = "",
    ) -> None:
        """Opens a storage of checkpoints, which may be empty.

        Args:
          storage: Storage of the checkpoints, or the path of a local folder.
          keep: Number of newest checkpoints to keep, at least 2: the newest one
            may turn out to be unreadable.
          best_by: Name of a score in `Header.run`. The checkpoint with the
            highest one is kept too. If "", only the newest are kept.
        """
        if keep < 2:
            raise ValueError(f"keep={keep}: must be at least 2")
        if isinstance(storage, pathlib.Path):
            storage = disk.Disk(storage)
        self._storage: Storage = storage
        self._keep = keep
        self._best_by = best_by
        # In containers every process has the same process id.
        self._writer = uuid.uuid4().hex[:12]
        # Newest step that this process has restored or committed.
        self._newest = -1
        # Steps that this process tried to commit, perhaps without an answer.
        self._attempted: set[int] = set()
        # Steps whose damaged files could not be set aside.
        self._stuck: set[int] = set()
        self._scores: dict[int, float] = {}

    def __str__(self) -> str:
        return str(self._storage)

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> None:
        """Saves a checkpoint durably, and deletes older ones.

        Args:
          step: Training step of the checkpoint.
          tensors: Tensors by name; see `format.encode`.
          run: Resume metadata; see `format.Header`.

        Raises:
          LostRaceError: Another process has committed this step or a later one.
          StorageError: The storage is full or cannot be written to. Older
            checkpoints are intact.
        """
        self.commit(step, self.encode(step, tensors, run))
        self.tidy(step)

    def encode(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> list[np.ndarray]:
        """Returns the content of a checkpoint for `commit`; see `save`."""
        return format_lib.encode(step, tensors, run, writer=self._writer)

    def commit(
        self,
        step: int,
        content: Sequence[np.ndarray],
        *,
        timeout: float | None = None,
    ) -> None:
        """Publishes an encoded checkpoint; see `save` and `tidy`.

        It can be repeated after a failure, as a commit of an earlier try whose
        answer was lost counts.

        Args:
          step: Training step of the checkpoint.
          content: Checkpoint as `encode` returned it.
          timeout: Limit for each of a few calls to the storage, in seconds. If
            None, the storage's own limit.
        """
        try:
            self._commit(step, content, timeout)
        except errors.StorageError as error:
            raise type(error)(
                f"the checkpoint of step {step} cannot be written: {error}"
            ) from None

    def _commit(
        self, step: int, content: Sequence[np.ndarray], timeout: float | None
    ) -> None:
        # Another process has committed the steps after those of this one.
        others = [
            found
            for found in self._find(timeout)
            if found > self._newest and found not in self._attempted
        ]
        if others:
            self._lose(max(others))
        if step in self._stuck:
            raise errors.UnavailableError(
                f"{self}/{file_name(step)} is damaged and cannot be set aside."
                " Fix: delete the file"
            )
        self._attempted.add(step)
        try:
            self._storage.publish(file_name(step), content, timeout=timeout)
        except FileExistsError:
            self._lose(step)
        self._newest = step

    def _lose(self, step: int) -> None:
        raise errors.LostRaceError(
            f"{self}/{file_name(step)}: another process has committed this"
            " step. Fix: wait for its end"
        )

    def tidy(self, newest: int) -> None:
        """Deletes checkpoints beyond `keep`.

        Logs errors instead of raising them. The next call deletes the remaining
        files. If the storage does not answer, the first error ends the call.

        Args:
          newest: Step of the latest commit.
        """
        try:
            found = self._find(_CALL_SECONDS)
            if newest not in found:
                return  # Another process is ahead and has deleted it.
            steps = [step for step in found if step <= newest]
            scores = None
            if self._best_by:
                scores = {s: self._score(s, found[s]) for s in steps}
            for step in superseded(steps, keep=self._keep, scores=scores):
                self._storage.delete(file_name(step), timeout=_CALL_SECONDS)
                self._scores.pop(step, None)
        except errors.StorageError as error:
            logging.warning("Postponed deleting old checkpoints: %s", error)

    def _score(self, step: int, entry: Entry) -> float:
        if step not in self._scores:
            try:
                score = self._read_header(entry).run.get(self._best_by)
            except (RetiredError, InvalidCheckpointError, NewerFormatError):
                return -math.inf
            self._scores[step] = (
                float(score) if isinstance(score, int | float) else -math.inf
            )
        return self._scores[step]

    def committed_steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending, without reading any.

        Raises:
          StorageError: The storage does not answer.
        """
        return [*self._find()]

    def newest_header(self) -> Header | None:
        """Returns the newest readable header, or None.

        The data of the tensors is not read, and may be damaged.

        Raises:
          StorageError: The storage does not answer.
        """
        for entry in reversed(self._find().values()):
            try:
                return self._read_header(entry)
            except (RetiredError, InvalidCheckpointError, NewerFormatError):
                continue
        return None

    def restore_newest(
        self, *, set_aside: bool = True
    ) -> tuple[Header, dict[str, np.ndarray]] | None:
        """Reads the newest intact checkpoint.

        A damaged one is set aside by renaming it, with an error in the log.
        Then the previous one is tried.

        Args:
          set_aside: Whether to set damaged checkpoints aside. If False, they
            are only skipped, as another process may own the run.

        Returns:
          Header and all tensors. None if no checkpoint was ever committed.

        Raises:
          StorageError: The storage does not answer. Nothing is set aside.
          ResumeError: All checkpoints are damaged, or another version of the
            job wrote them. The user decides whether to start over.
        """
        for _ in range(_READS):
            try:
                return self._restore_newest(set_aside)
            except RetiredError:
                continue
        raise errors.UnavailableError(
            f"{self}: another process replaces the checkpoints faster than they"
            " can be read. Fix: try again later"
        )

    def _restore_newest(
        self, set_aside: bool
    ) -> tuple[Header, dict[str, np.ndarray]] | None:
        entries = self._storage.find(_PREFIX)
        causes = [
            f"{entry.name}: set aside before"
            for entry in entries
            if _SET_ASIDE.fullmatch(entry.name)
        ]
        for step, entry in reversed(_by_step(entries).items()):
            try:
                found = self._read(entry)
            except NewerFormatError as error:
                raise errors.ResumeError(
                    f"{self}/{entry.name}: {error}. Fix: resume with the"
                    " version that wrote it, or choose another workdir"
                ) from None
            except InvalidCheckpointError as error:
                causes.append(f"{entry.name}: {error}")
                logging.error(
                    "Found a damaged checkpoint, %s/%s: %s",
                    self,
                    entry.name,
                    error,
                )
                if set_aside:
                    self._set_aside(step, entry.name)
            else:
                self._newest = step
                return found
        if causes:
            raise errors.ResumeError(
                f"{self}: no checkpoint is usable ({'; '.join(causes)}). Fix:"
                " choose another workdir, or remove that folder to start over"
            )
        self._newest = -1
        return None

    def _set_aside(self, step: int, name: str) -> None:
        try:
            self._storage.move(name, f"{name}{SET_ASIDE}{uuid.uuid4().hex[:8]}")
        except FileNotFoundError:
            pass  # Another process has done it.
        except errors.UnavailableError:
            raise
        except errors.StorageError as error:
            logging.error("Skipping the file, which cannot be moved: %s", error)
            self._stuck.add(step)
            self._attempted.add(step)

    def _find(self, timeout: float | None = None) -> dict[int, Entry]:
        """Returns the committed files by step, ascending."""
        return _by_step(self._storage.find(_PREFIX, timeout=timeout))

    def _read(self, entry: Entry) -> tuple[Header, dict[str, np.ndarray]]:
        try:
            return self._read_once(entry)
        except InvalidCheckpointError:
            # A range of an object has no checksum of its own, and may have been
            # damaged in transit.
            try:
                self._storage.verify(entry.name)
            except FileNotFoundError:
                raise RetiredError from None
            return self._read_once(entry)

    def _read_once(self, entry: Entry) -> tuple[Header, dict[str, np.ndarray]]:
        try:
            with self._storage.open(entry.name) as file:
                header = format_lib.read_header(file, entry.size)
                if file_name(header.step) != entry.name:
                    raise InvalidCheckpointError(
                        f"the header has step {header.step}"
                    )
                return header, format_lib.read_tensors(file, header)
        except FileNotFoundError:
            raise RetiredError from None

    def _read_header(self, entry: Entry) -> Header:
        try:
            with self._storage.open(
                entry.name,
                timeout=_CALL_SECONDS,
                range_bytes=_HEADER_RANGE_BYTES,
            ) as file:
                return format_lib.read_header(file, entry.size)
        except FileNotFoundError:
            raise RetiredError from None


def _by_step(entries: Sequence[Entry]) -> dict[int, Entry]:
    found = {
        int(match[1]): entry
        for entry in entries
        if (match := _NAME.fullmatch(entry.name))
    }
    return dict(sorted(found.items()))
