"""Exceptions that end a run, and their exit codes.

Any module raises them, and only `main` exits. The message is one line with the
flag or file, the problem and the fix. A Kubernetes Job fails for good on 2, 3,
4 and 5 and restarts on the others. 69, 74 and 75 are EX_UNAVAILABLE, EX_IOERR
and EX_TEMPFAIL of sysexits.h.
"""

EXIT_DONE = 0


class JobError(Exception):
    """Base class of all expected errors."""

    exit_code = 1


class ConfigError(JobError):
    """A flag or a config field is wrong; the message names it."""

    exit_code = 2


class OutOfMemoryError(JobError):
    """The run does not fit into memory.

    Shapes never change, so the next attempt would fail in the same way.
    """

    exit_code = 2


class DataError(JobError):
    """Images or weights are absent, damaged or of the wrong kind."""

    exit_code = 3


class StorageError(JobError):
    """The workdir's disk or bucket is full, not writable or broken."""

    exit_code = 3


class UnavailableError(StorageError):
    """The disk or bucket did not answer in time; a later attempt may succeed.

    Kubernetes retries up to `backoffLimit` times.
    """

    exit_code = 74


class ResumeError(JobError):
    """The run cannot resume: no usable checkpoint, or too many restarts."""

    exit_code = 4


class DivergedError(JobError):
    """The loss or a gradient is not finite any more."""

    exit_code = 5


class DeviceError(JobError):
    """Devices that the config requires are absent."""

    exit_code = 69


class PreemptedError(JobError):
    """The run was stopped and saved; the same command resumes it."""

    exit_code = 75


class LostRaceError(PreemptedError):
    """Another process trains the same run and is ahead."""


class HungError(JobError):
    """The run made no progress for too long; only `watchdog` uses the code."""

    exit_code = 76


class PeerLostError(JobError):
    """Another worker of the run failed; all workers must be restarted."""

    exit_code = 76


class RunFailedError(JobError):
    """A run of an ablation failed; the ablation ends with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        # A run that a signal ended has a negative code.
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
      limit: Largest number of characters.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][
        :limit
    ]
