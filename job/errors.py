"""Exceptions that end a run, and their exit codes.

Any module raises them, and only `main` exits. The message is one line with the
flag or file, the problem and the fix. A Kubernetes Job does not retry after 2,
3, 4 and 5, and restarts after the others. 69, 74 and 75 are EX_UNAVAILABLE,
EX_IOERR and EX_TEMPFAIL of sysexits.h.
"""

EXIT_DONE = 0


class JobError(Exception):
    """Base class of all expected errors."""

    exit_code = 1


class ConfigError(JobError):
    """Error for a wrong flag or config field, which the message names."""

    exit_code = 2


class OutOfMemoryError(JobError):
    """Error for a run that does not fit into memory.

    Shapes never change, so the next attempt would fail in the same way.
    """

    exit_code = 2


class DataError(JobError):
    """Error for absent, damaged or wrong images or weights."""

    exit_code = 3


class StorageError(JobError):
    """Error for a full, read-only or broken disk or bucket of the workdir."""

    exit_code = 3


class UnavailableError(StorageError):
    """Error for a disk or bucket that did not answer in time.

    A later attempt may succeed. Kubernetes retries up to `backoffLimit` times.
    """

    exit_code = 74


class ResumeError(JobError):
    """Error for a run without usable checkpoint or after too many restarts."""

    exit_code = 4


class DivergedError(JobError):
    """Error for a loss or gradient that is not finite."""

    exit_code = 5


class DeviceError(JobError):
    """Error for absent devices that the config requires."""

    exit_code = 69


class PreemptedError(JobError):
    """Stop of a saved run, which the same command resumes."""

    exit_code = 75


class LostRaceError(PreemptedError):
    """Stop of a run whose steps another process has committed first."""


class HungError(JobError):
    """Error for a run without progress, with the exit code of `watchdog`."""

    exit_code = 76


class PeerLostError(JobError):
    """Error for a failed worker, after which all workers must restart."""

    exit_code = 76


class RunFailedError(JobError):
    """Error for a failed run of an ablation, with the run's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        # A signal that ends a run gives a negative code.
        self.exit_code = exit_code if exit_code > 0 else 1


def kind_of(error: JobError) -> type[JobError]:
    """Returns the class of this module that an error is of.

    A module's own subclass has the name and the exit code of its kind.
    """
    mro = type(error).__mro__
    return next(kind for kind in mro if kind.__module__ == __name__)


def printable(text: str) -> str:
    """Returns text without control characters, which could forge output."""
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text
    )


def first_line(error: BaseException, limit: int = 200) -> str:
    """Returns the first line of an error's text, or its type without text.

    Args:
      error: Error with or without a text.
      limit: Maximum number of characters.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][
        :limit
    ]
