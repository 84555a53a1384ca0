"""Garbage collection of checkpoints.

    superseded([1, 2, 3, 4], keep=2, scores=None)         # [1, 2]
    abandoned(listing, newest, read_manifest)             # names
    Collector(storage, keep=2).collect(newest)

`superseded` and `abandoned` are the policy: they take listings and return steps
or names. `Collector` deletes what they select. Imports no TensorFlow.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging

from job import errors
from job.checkpoint import layout, manifest
from job.storage import Entry, Storage, faults

# A file that no manifest names may belong to a process that is still writing
# its checkpoint, unless the file is older than any save may take.
ABANDONED_SECONDS = 3600.0
# Timeout of each call: a caller that waits for a save waits for it too.
_CALL_SECONDS = 5.0


def superseded(
    committed: Sequence[int],
    *,
    keep: int,
    scores: Mapping[int, float] | None,
) -> list[int]:
    """Returns the steps whose checkpoints are no longer needed.

    Args:
      committed: Committed steps, ascending.
      keep: Number of newest checkpoints to keep.
      scores: Score of each committed step; the checkpoint with the highest
        score (the newest of equal ones) is kept too. If None, only the newest
        checkpoints are kept.
    """
    kept = {*committed[-keep:]}
    if scores:
        kept.add(max(committed, key=lambda step: (scores[step], step)))
    return [step for step in committed if step not in kept]


def abandoned(
    listing: Mapping[int, Sequence[Entry]],
    newest: int,
    read_manifest: Callable[[int], manifest.Manifest | None],
    *,
    seconds: float = ABANDONED_SECONDS,
) -> Iterator[str]:
    """Yields the files that dead processes left behind.

    A file counts as abandoned if no manifest names it and it is so much older
    than the newest manifest that its writer cannot be about to commit it. Files
    of a step with a quarantined manifest are kept: they are evidence.

    Args:
      listing: Files by step; later steps than `newest` are ignored.
      newest: Committed step whose manifest was written just now: its time of
        modification is the present by the storage's clock.
      read_manifest: Returns a step's manifest, or None if it cannot be
        interpreted; such a step is left alone. Called only for committed steps
        with old files.
      seconds: Age from which an unnamed file is abandoned.
    """
    now = {
        layout.base_name(entry.name): entry.modified
        for entry in listing[newest]
    }[manifest.NAME]
    for step, entries in listing.items():
        if step > newest:
            continue
        old = [entry for entry in entries if now - entry.modified > seconds]
        if not old or any(layout.QUARANTINED in e.name for e in entries):
            continue
        named = {manifest.NAME}
        if layout.committed({step: entries}):
            made = read_manifest(step)
            if made is None:
                continue
            named |= {file.name for file in made.files}
        for entry in old:
            if layout.base_name(entry.name) not in named:
                yield entry.name


class Collector:
    """Deletes superseded checkpoints and abandoned files.

    Attributes:
      orphans: Files of failed saves of this process; no manifest names them,
        now or later.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        keep: int,
        best_by: str = "",
        abandoned_seconds: float = ABANDONED_SECONDS,
    ) -> None:
        """Stores the arguments.

        Args:
          storage: Storage of the checkpoints.
          keep: Number of newest checkpoints to keep.
          best_by: Name of a score in a manifest's `run`; the checkpoint with
            the highest one is kept too. If "", only the newest are kept.
          abandoned_seconds: Age from which a file that no manifest names is
            abandoned.
        """
        self.orphans: set[str] = set()
        self._storage = storage
        self._keep = keep
        self._best_by = best_by
        self._abandoned_seconds = abandoned_seconds
        self._manifests: dict[int, manifest.Manifest] = {}

    def collect(
        self, newest: int, should_abort: Callable[[], bool] = lambda: False
    ) -> None:
        """Deletes files that are not needed; logs errors and raises none.

        What is left, the next call deletes.

        Args:
          newest: Step that was committed just now.
          should_abort: Called before each deletion; if it returns True, the
            remaining ones are skipped.
        """

        def delete(name: str) -> None:
            if should_abort():
                raise _AbortError
            self._delete(name)

        try:
            self._collect(newest, delete)
        except _AbortError:
            pass
        except errors.StorageError as error:
            logging.warning("old checkpoints cannot be removed: %s", error)

    def delete_orphans(self) -> None:
        """Deletes the files of failed saves of this process."""
        self._delete_orphans(self._delete)

    def _collect(self, newest: int, delete: Callable[[str], None]) -> None:
        self._delete_orphans(delete)
        listing = layout.find(self._storage, _CALL_SECONDS)
        committed = [s for s in layout.committed(listing) if s <= newest]
        if newest not in committed:
            return  # Another process is ahead and has retired it.
        scores = None
        if self._best_by:
            scores = {step: self._score(step) for step in committed}
        for step in superseded(committed, keep=self._keep, scores=scores):
            self._retire(step, delete)
        for name in abandoned(
            listing, newest, self._manifest, seconds=self._abandoned_seconds
        ):
            delete(name)
            faults.reach("sweep.data")

    def _retire(self, step: int, delete: Callable[[str], None]) -> None:
        """Deletes a checkpoint."""
        made = self._manifest(step)
        if made is None:
            return  # Damaged, or written by a later version of the job.
        faults.reach("retire.begin")
        # The manifest first: without it no checkpoint exists, and a kill
        # after it leaves only files that a later call finds abandoned.
        delete(layout.file_name(step, manifest.NAME))
        faults.reach("retire.manifest")
        names = [layout.file_name(step, file.name) for file in made.files]
        self.orphans |= {*names}
        for name in names:
            delete(name)
            self.orphans.discard(name)
            faults.reach("retire.data")
        self._manifests.pop(step, None)

    def _delete_orphans(self, delete: Callable[[str], None]) -> None:
        try:
            for name in sorted(self.orphans):
                delete(name)
                self.orphans.discard(name)
        except errors.StorageError as error:
            logging.warning("%s", error)

    def _delete(self, name: str) -> None:
        self._storage.delete(name, timeout=_CALL_SECONDS)

    def _score(self, step: int) -> float:
        made = self._manifest(step)
        score = made.run.get(self._best_by) if made else None
        return score if isinstance(score, int | float) else -math.inf

    def _manifest(self, step: int) -> manifest.Manifest | None:
        """Returns a step's manifest without its tensors; None if unreadable."""
        if step not in self._manifests:
            made = layout.read_manifest(self._storage, step, _CALL_SECONDS)
            if made is None:
                return None
            self._manifests[step] = dataclasses.replace(made, tensors=())
        return self._manifests[step]


class _AbortError(Exception):
    """A caller waits for a save; the next call deletes what is left."""
