"""The commit protocol: how tensors become a checkpoint, and are found again.

    store = CheckpointStore(disk.Disk(workdir / "checkpoints"), keep=2)
    store.save(step, tensors, run)       # committed when it returns
    found = store.restore_newest()       # -> (manifest, tensors), or None

A save writes data files first, under names that carry this process's id, so
that a dead attempt never stands in the way of the next; each is durable and
compared with what was meant. Then MANIFEST.json appears, whole, at once, and
only if there is none: that is the commit. A kill at any point leaves either
the checkpoint or no checkpoint, and never touches an older one. Where the files
lie is for `storage.Storage` to know. Imports no TensorFlow.
"""

import dataclasses
import itertools
import pathlib
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint import manifest
from job.storage import Entry, Storage, disk, faults

_NAME = re.compile(r"step-([0-9]{8,})/([^/]+)")
_QUARANTINED = manifest.NAME + ".quarantined-"
# A file to each of a few upload threads, and none too large for one retry.
_FILE_BYTES = 32 * 2**20
# Files that no manifest names may belong to a process that is still writing;
# by the storage's clock.
_ABANDONED_SECONDS = 3600.0
# So a writer does not trust files of its own that come near that age.
_FRESH_SECONDS = 1200.0
# How often a checkpoint may be retired by another process while we read it.
_READS = 5
# For each call of a removal: no more than somebody in a hurry can wait for.
_TIDY_SECONDS = 5.0


@dataclasses.dataclass
class Packed:
    """A checkpoint that is ready to be written.

    Attributes:
      made: its manifest.
      contents: its files' bytes, in the manifest's order.
      begun: when its files were first written, by time.monotonic; None: not
        yet.
    """

    made: manifest.Manifest
    contents: list[bytes]
    begun: float | None = None

    @property
    def size(self) -> int:
        """Bytes of data."""
        return sum(file.size for file in self.made.files)


class CheckpointStore:
    """Checkpoints of one run, in one place."""

    def __init__(
        self,
        storage: Storage | pathlib.Path,
        *,
        keep: int = 2,
        best_by: str = "",
    ) -> None:
        """Opens a place for checkpoints, which may be empty.

        Args:
          storage: where they are, as `step-00001234/`; a path is a folder.
          keep: how many checkpoints to keep, at least 2: the newest may turn
            out to be unreadable.
          best_by: name in a manifest's `run`; the checkpoint where that is
            highest is kept too.
        """
        if keep < 2:
            raise ValueError(f"keep is {keep}; it must be at least 2")
        if isinstance(storage, pathlib.Path):
            storage = disk.Disk(storage)
        self._storage: Storage = storage
        self._keep = keep
        self._best_by = best_by
        self._process = uuid.uuid4().hex[:12]
        self._attempts = itertools.count(1)
        # Files for us to remove, which no manifest names, now or later.
        self._litter: set[str] = set()
        self._manifests: dict[str, manifest.Manifest] = {}

    def __str__(self) -> str:
        return str(self._storage)

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> manifest.Manifest:
        """Commits a checkpoint; it is there to stay when this returns.

        Args:
          step: training steps done.
          tensors: what to save, by name; float or int, 32 or 64 bits.
          run: see `manifest.Manifest`.

        Raises:
          LostRaceError: another process has committed this step, or a later
            one.
          StorageError: the place is full, or cannot be written to; nothing that
            was committed before is touched.
        """
        made = self.commit(self.pack(step, tensors, run))
        self.tidy(step)
        return made

    def pack(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> Packed:
        """Lays tensors out as files, in memory; see `save`."""
        attempt = self._new_attempt()
        files, entries, contents = manifest.pack(tensors, attempt, _FILE_BYTES)
        made = manifest.Manifest(step, attempt, files, entries, run)
        return Packed(made, contents)

    def commit(
        self, packed: Packed, *, timeout: float | None = None
    ) -> manifest.Manifest:
        """Writes what `pack` returned, and commits it; see `save` and `tidy`.

        May be called again after it failed: it goes on with what is there, and
        knows a commit of its own of which it never heard.

        Args:
          packed: the checkpoint.
          timeout: in seconds, for each of a few calls to a bucket.
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
        self, newest: int, in_a_hurry: Callable[[], bool] = lambda: False
    ) -> None:
        """Removes what a commit made superfluous; raises nothing.

        Those are checkpoints beyond `keep`, and what dead attempts left. Where
        it fails, or is left out, the next call does it.

        Args:
          newest: the step that was committed just now.
          in_a_hurry: asked before each removal; if so, the rest is left out.
        """
        try:
            self._tidy(newest, in_a_hurry)
        except _HurryError:
            pass
        except errors.StorageError as error:
            logging.warning("old checkpoints cannot be removed: %s", error)
        faults.reach("save.end")

    def _commit(self, packed: Packed, timeout: float | None) -> None:
        self._refresh(packed, timeout)
        assert packed.begun is not None
        made = packed.made
        if self._is_committed(made, timeout):
            return
        names = [_name(made.step, file.name) for file in made.files]
        self._litter |= {*names}
        self._storage.create(
            dict(zip(names, packed.contents, strict=True)), timeout=timeout
        )
        faults.reach("data.all")
        if time.monotonic() - packed.begun > _FRESH_SECONDS:
            raise errors.UnavailableError("its files took too long")
        faults.reach("manifest.begin")
        # From here on a manifest may name them, heard of or not.
        self._litter -= {*names}
        name, content = _name(made.step, manifest.NAME), made.to_json()
        try:
            self._storage.publish(name, content, timeout=timeout)
        except FileExistsError:
            # Our own, if a try succeeded and we never heard of it.
            if not self._holds(name, content, timeout):
                self._litter |= {*names}
                self._lose(made.step)

    def restore_newest(
        self, *, quarantine: bool = True
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        """Reads the newest checkpoint that is whole.

        A damaged one is put aside, by renaming its manifest, and named in the
        log; then older ones are tried.

        Args:
          quarantine: False where another process may own the run: then a
            damaged checkpoint is passed over, and left as it is.

        Returns:
          The manifest and all tensors; None where no checkpoint was ever
          committed here.

        Raises:
          StorageError: the storage does not answer; nothing is put aside.
          ResumeError: there are checkpoints and none is whole, or the newest is
            of a later version of this job. Starting over is a decision for a
            person.
        """
        for _ in range(_READS):
            try:
                return self._restore_newest(quarantine)
            except _RetiredError:
                continue
        raise errors.UnavailableError(
            f"{self}: another process replaces its checkpoints faster than they"
            " can be read"
        )

    def _restore_newest(
        self, quarantine: bool
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        causes = []
        folders = self._folders()
        for step in sorted(folders, reverse=True):
            names = {_base(entry.name) for entry in folders[step]}
            causes += [
                f"step-{step:08d}: put aside before ({name})"
                for name in sorted(names)
                if name.startswith(_QUARANTINED)
            ]
            if manifest.NAME not in names:
                continue
            try:
                return self._read(step)
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
        return _committed(self._folders())

    def newest_manifest(self) -> manifest.Manifest | None:
        """Returns the newest manifest, without its tensors; None: none yet.

        For a look at a run: whether its data is whole is not looked at.

        Raises:
          StorageError: the storage does not answer.
        """
        for step in reversed(self.committed_steps()):
            if made := self._manifest(step):
                return made
        return None

    def _read(
        self, step: int
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]]:
        """Reads one checkpoint.

        Raises:
          InvalidCheckpointError: it is damaged.
          NewerFormatError: see `manifest.from_json`.
          _RetiredError: it was there, and is no more.
        """
        name = _name(step, manifest.NAME)
        try:
            (content,) = self._storage.read(name)
        except FileNotFoundError:
            raise _RetiredError from None
        found = manifest.from_json(content)
        if found.step != step:
            raise manifest.InvalidCheckpointError(
                f"{manifest.NAME} is of step {found.step}"
            )
        try:
            contents = self._storage.read(
                *(_name(step, file.name) for file in found.files)
            )
        except FileNotFoundError as error:
            # Whoever retires a checkpoint removes its manifest first.
            if name not in {e.name for e in self._storage.find(name)}:
                raise _RetiredError from None
            raise manifest.InvalidCheckpointError(str(error)) from None
        return found, manifest.unpack(found, contents)

    def _new_attempt(self) -> str:
        """Returns an id for file names; a step may be saved twice by us."""
        return f"{self._process}{next(self._attempts):04x}"

    def _refresh(self, packed: Packed, timeout: float | None) -> None:
        """Gives files new names where the old ones may be taken for litter."""
        now = time.monotonic()
        if packed.begun is None:
            packed.begun = now
        elif now - packed.begun > _FRESH_SECONDS / 2:
            attempt = self._new_attempt()
            files = tuple(
                dataclasses.replace(
                    file, name=file.name.replace(packed.made.attempt, attempt)
                )
                for file in packed.made.files
            )
            # A commit of the old names may have gone unheard: it counts.
            if not self._is_committed(packed.made, timeout):
                packed.made = dataclasses.replace(
                    packed.made, attempt=attempt, files=files
                )
                packed.begun = now

    def _is_committed(
        self, made: manifest.Manifest, timeout: float | None
    ) -> bool:
        """Says whether an earlier try of this very save has succeeded.

        Raises:
          LostRaceError: another process's has, or it is ahead.
        """
        there = _committed(self._folders(timeout))
        ahead = [s for s in there if s >= made.step]
        name = _name(made.step, manifest.NAME)
        if made.step in ahead and self._holds(name, made.to_json(), timeout):
            return True
        if ahead:
            self._lose(max(ahead))
        return False

    def _holds(self, name: str, content: bytes, timeout: float | None) -> bool:
        try:
            return self._storage.read(name, timeout=timeout) == [content]
        except FileNotFoundError:  # Retired meanwhile: another one is ahead.
            return False

    def _lose(self, step: int) -> None:
        self._remove_litter(self._delete)
        raise errors.LostRaceError(
            f"another process has committed step-{step:08d}: this one ends"
        )

    def _quarantine(self, step: int) -> None:
        name = _name(step, manifest.NAME)
        aside = _name(step, f"{_QUARANTINED}{self._new_attempt()}")
        faults.reach("quarantine.begin")
        try:
            self._storage.move(name, aside)
        except FileNotFoundError as error:
            logging.error("%s/%s cannot be renamed: %s", self, name, error)
        except errors.StorageError as error:
            # Left there, it would pass for another process that is ahead.
            raise type(error)(
                f"{self}: step-{step:08d} is damaged and cannot be put aside:"
                f" {error}"
            ) from None
        faults.reach("quarantine.end")

    def _tidy(self, newest: int, in_a_hurry: Callable[[], bool]) -> None:
        def delete(name: str) -> None:
            if in_a_hurry():
                raise _HurryError
            self._delete(name)

        self._remove_litter(delete)
        folders = self._folders(_TIDY_SECONDS)
        committed = [s for s in _committed(folders) if s <= newest]
        if newest not in committed:
            return  # Another process is ahead, and has retired it.
        kept = {*committed[-self._keep :]}
        if self._best_by:
            scores = {s: self._score(s) for s in committed}
            kept.add(max(committed, key=lambda s: (scores[s], s)))
        for step in committed:
            if step not in kept:
                self._retire(step, delete)
        self._sweep(
            {s: folders[s] for s in folders if s <= newest}, newest, delete
        )

    def _retire(self, step: int, delete: Callable[[str], None]) -> None:
        made = self._manifest(step, _TIDY_SECONDS)
        if made is None:
            return  # Damaged, or newer than us: not ours to judge.
        faults.reach("retire.begin")
        # The manifest first: without it there is no checkpoint, and a kill
        # between the two leaves only what a later call sweeps away.
        delete(_name(step, manifest.NAME))
        faults.reach("retire.manifest")
        names = [_name(step, file.name) for file in made.files]
        self._litter |= {*names}
        for name in names:
            delete(name)
            self._litter.discard(name)
            faults.reach("retire.data")
        self._manifests.pop(_name(step, manifest.NAME), None)

    def _sweep(
        self,
        folders: dict[int, list[Entry]],
        newest: int,
        delete: Callable[[str], None],
    ) -> None:
        """Removes files that no manifest names and nobody will come back for.

        Their writer may live, and commit them yet; so only those that are older
        than any save may take, against the manifest of step `newest`, which was
        written just now.
        """
        now = {_base(e.name): e.modified for e in folders[newest]}[
            manifest.NAME
        ]
        for step, entries in folders.items():
            old = [e for e in entries if now - e.modified > _ABANDONED_SECONDS]
            if not old or any(_QUARANTINED in e.name for e in entries):
                continue  # What was put aside is evidence.
            named = {manifest.NAME}
            if step in _committed({step: entries}):
                made = self._manifest(step, _TIDY_SECONDS)
                if made is None:
                    continue
                named |= {file.name for file in made.files}
            for entry in old:
                if _base(entry.name) not in named:
                    delete(entry.name)
                    faults.reach("sweep.data")

    def _remove_litter(self, delete: Callable[[str], None]) -> None:
        """Removes what tries of ours left that came to nothing."""
        try:
            for name in sorted(self._litter):
                delete(name)
                self._litter.discard(name)
        except errors.StorageError as error:
            logging.warning("%s", error)

    def _delete(self, name: str) -> None:
        self._storage.delete(name, timeout=_TIDY_SECONDS)

    def _score(self, step: int) -> float:
        made = self._manifest(step, _TIDY_SECONDS)
        score = made.run.get(self._best_by) if made else None
        return score if isinstance(score, int | float) else -np.inf

    def _manifest(
        self, step: int, timeout: float | None = None
    ) -> manifest.Manifest | None:
        """Returns a step's manifest; None where it says nothing to us."""
        name = _name(step, manifest.NAME)
        if name not in self._manifests:
            try:
                (content,) = self._storage.read(name, timeout=timeout)
                self._manifests[name] = dataclasses.replace(
                    manifest.from_json(content), tensors=()
                )
            except (
                FileNotFoundError,
                manifest.InvalidCheckpointError,
                manifest.NewerFormatError,
            ):
                return None
        return self._manifests[name]

    def _folders(self, timeout: float | None = None) -> dict[int, list[Entry]]:
        """Returns the files of each step that has any, by step."""
        folders: dict[int, list[Entry]] = {}
        for entry in self._storage.find("step-", timeout=timeout):
            if match := _NAME.fullmatch(entry.name):
                folders.setdefault(int(match[1]), []).append(entry)
        return dict(sorted(folders.items()))


class _RetiredError(Exception):
    """The checkpoint was removed by whoever owns the run."""


class _HurryError(Exception):
    """Somebody waits; what is left to remove, the next call removes."""


def _name(step: int, base: str) -> str:
    return f"step-{step:08d}/{base}"


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _committed(folders: dict[int, list[Entry]]) -> list[int]:
    return [
        step
        for step, entries in folders.items()
        if any(_base(entry.name) == manifest.NAME for entry in entries)
    ]
