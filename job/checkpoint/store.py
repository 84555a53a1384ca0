"""The commit protocol, on a local disk.

    store = CheckpointStore(workdir / "checkpoints", keep=2)
    store.save(step, tensors, run)       # committed when it returns
    found = store.restore_newest()       # -> (manifest, tensors), or None

A save writes data files first, under names that carry this process's id, so
that a dead attempt never stands in the way of the next; each is flushed to the
disk and read back. Then MANIFEST.json appears, whole, at once, and only if
there
is none: that is the commit. A kill at any point leaves either the checkpoint or
no checkpoint, and never touches an older one. Imports no TensorFlow.
"""

import errno
import os
import pathlib
import re
import shutil
import time
import uuid
from typing import Any

import numpy as np
from absl import logging

from job import errors
from job.checkpoint import manifest

_STEP_DIR = re.compile(r"step-([0-9]{8,})")
_QUARANTINED = manifest.NAME + ".quarantined-"
# A file to each of a few upload threads, and none too large for one retry.
_FILE_BYTES = 64 * 2**20
# A directory without a manifest may belong to a process that is still writing.
_ABANDONED_SECONDS = 3600


class CheckpointStore:
    """Checkpoints of one run, in one directory."""

    def __init__(self, root: pathlib.Path, *, keep: int = 2) -> None:
        """Opens a directory of checkpoints, which need not exist yet.

        Args:
          root: the directory; a checkpoint is `root/step-00001234/`.
          keep: how many checkpoints to keep, at least 2: the newest may turn
            out to be unreadable.
        """
        if keep < 2:
            raise ValueError(f"keep is {keep}; it must be at least 2")
        self._root = root
        self._keep = keep
        self._attempt = uuid.uuid4().hex[:12]

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> manifest.Manifest:
        """Commits a checkpoint; it is on the disk when this returns.

        Args:
          step: training steps done.
          tensors: what to save, by name; float or int, 32 or 64 bits.
          run: see `manifest.Manifest`.

        Raises:
          PreemptedError: another process has committed this step.
          StorageError: the disk is full, or cannot be written to; nothing that
            was committed before is touched.
        """
        try:
            return self._save(step, tensors, run)
        except OSError as error:
            raise errors.StorageError(
                f"the checkpoint of step {step} cannot be written: {error}"
            ) from None

    def _save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> manifest.Manifest:
        files, entries, contents = manifest.pack(
            tensors, self._attempt, _FILE_BYTES
        )
        made = manifest.Manifest(step, self._attempt, files, entries, run)
        directory = self._directory(step)
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in zip(files, contents, strict=True):
            _write(directory / file.name, content)
            if (
                manifest.crc32c((directory / file.name).read_bytes())
                != file.crc32c
            ):
                raise OSError(errno.EIO, "read back other bytes", file.name)
        _sync_directory(directory)
        try:
            _publish(directory, manifest.NAME, made.to_json(), self._attempt)
        except FileExistsError:
            raise errors.PreemptedError(
                f"another process has committed {directory.name}: this one ends"
            ) from None
        _sync_directory(self._root)
        self._retire(step)
        return made

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
          StorageError: the disk does not answer; nothing is put aside.
          ResumeError: there are checkpoints and none is whole. Starting
            over is a decision for a person.
        """
        causes = []
        for step, directory in reversed(self._directories()):
            path = directory / manifest.NAME
            causes += [
                f"{directory.name}: put aside before ({old.name})"
                for old in directory.glob(_QUARANTINED + "*")
            ]
            if not path.exists():
                continue
            try:
                found = manifest.from_json(path.read_bytes())
                if found.step != step:
                    raise manifest.InvalidCheckpointError(
                        f"{manifest.NAME} is of step {found.step}"
                    )
                contents = [
                    (directory / f.name).read_bytes() for f in found.files
                ]
                return found, manifest.unpack(found, contents)
            except (
                manifest.InvalidCheckpointError,
                FileNotFoundError,
            ) as error:
                causes.append(f"{directory.name}: {error}")
                logging.error("damaged checkpoint: %s: %s", directory, error)
                if quarantine:
                    self._quarantine(directory)
            except OSError as error:
                # May pass; an older checkpoint would be steps lost for nothing.
                raise errors.StorageError(
                    f"{directory} cannot be read: {error}"
                ) from None
        if causes:
            raise errors.ResumeError(
                f"{self._root} has no usable checkpoint ({'; '.join(causes)});"
                " to start over, choose another workdir or remove that folder"
            )
        return None

    def committed_steps(self) -> list[int]:
        """Returns the steps that have a manifest, ascending; reads no data."""
        return [
            step
            for step, directory in self._directories()
            if (directory / manifest.NAME).exists()
        ]

    def _directory(self, step: int) -> pathlib.Path:
        return self._root / f"step-{step:08d}"

    def _directories(self) -> list[tuple[int, pathlib.Path]]:
        if not self._root.exists():
            return []
        if not self._root.is_dir():
            raise errors.ResumeError(f"{self._root} is a file, not a folder")
        found = [
            (int(match[1]), path)
            for path in self._root.iterdir()
            if (match := _STEP_DIR.fullmatch(path.name)) and path.is_dir()
        ]
        return sorted(found)

    def _quarantine(self, directory: pathlib.Path) -> None:
        path = directory / manifest.NAME
        try:
            path.rename(directory / f"{_QUARANTINED}{self._attempt}")
            _sync_directory(directory)
        except OSError as error:
            logging.error("%s cannot be renamed: %s", path, error)

    def _retire(self, newest: int) -> None:
        """Deletes checkpoints beyond `keep`, and what dead attempts left."""
        committed = [step for step in self.committed_steps() if step <= newest]
        for step in committed[: -self._keep]:
            directory = self._directory(step)
            # The manifest first: without it there is no checkpoint, and a kill
            # between the two leaves only what a later call sweeps away.
            (directory / manifest.NAME).unlink(missing_ok=True)
            _sync_directory(directory)
            shutil.rmtree(directory, ignore_errors=True)
        for step, directory in self._directories():
            if step < newest and not any(directory.glob(manifest.NAME + "*")):
                if time.time() - directory.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(directory, ignore_errors=True)


def _write(path: pathlib.Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _publish(
    directory: pathlib.Path, name: str, content: bytes, attempt: str
) -> None:
    """Makes `directory/name` appear, whole; FileExistsError if it is there."""
    staged = directory / f".{name}.{attempt}"
    _write(staged, content)
    try:
        # A link, unlike a rename, refuses to replace.
        os.link(staged, directory / name)
    except OSError as error:
        if error.errno not in (
            errno.EPERM,
            errno.ENOTSUP,
            errno.EMLINK,
            errno.ENOSYS,
        ):
            raise
        # This file system has no links: one writer at a time, then.
        if (directory / name).exists():
            raise FileExistsError(errno.EEXIST, "exists", name) from None
        os.rename(staged, directory / name)
    finally:
        staged.unlink(missing_ok=True)
    _sync_directory(directory)


def _sync_directory(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
