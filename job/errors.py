"""Exceptions that end a run, and their exit codes.

Any module raises them, and only `main` exits. The message is one line: the
problem, its place and the fix. A Kubernetes Job fails for good on 2, 3, 4 and 5
and restarts on the others. The codes above 64
are those of sysexits.h where it has one: 69 EX_UNAVAILABLE, 74 EX_IOERR, 75
EX_TEMPFAIL.
"""

EXIT_DONE = 0


class JobError(Exception):
    """Base of all ends that the job foresees."""

    exit_code = 1


class ConfigError(JobError):
    """A flag or a config field is wrong: the message names it."""

    exit_code = 2


class OutOfMemoryError(JobError):
    """What the config asks for does not fit into memory; shapes never change.

    So the next start would end the same way, as with a wrong field.
    """

    exit_code = 2


class DataError(JobError):
    """Images are absent, damaged or not what they should be."""

    exit_code = 3


class StorageError(JobError):
    """The workdir's disk or bucket is full, closed to us or broken."""

    exit_code = 3


class UnavailableError(StorageError):
    """It did not answer, or not in time; a later try may succeed.

    Kubernetes makes that try, as often as `backoffLimit` says.
    """

    exit_code = 74


class ResumeError(JobError):
    """The run cannot go on: no usable checkpoint, or restarts to no avail."""

    exit_code = 4


class DivergedError(JobError):
    """The loss or a gradient is not finite any more."""

    exit_code = 5


class DeviceError(JobError):
    """Devices that the config asks for are not there."""

    exit_code = 69


class PreemptedError(JobError):
    """Told to stop, and stopped with all saved; the same command goes on."""

    exit_code = 75


class LostRaceError(PreemptedError):
    """Another process works on the same run, and has got further."""


class HungError(JobError):
    """No progress for too long; raised by nobody: see `watchdog`."""

    exit_code = 76


class PeerLostError(JobError):
    """Another worker of the run is gone; all are to be started again."""

    exit_code = 76


class RunFailedError(JobError):
    """A run of an ablation failed; the ablation ends with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        # A run that a signal ended has a negative code.
        self.exit_code = exit_code if exit_code > 0 else 1


def printable(text: str) -> str:
    """Returns text without control characters, which could forge output."""
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text
    )


def first_line(error: BaseException, limit: int = 200) -> str:
    """Returns the first line of an error's text, cut to `limit` characters.

    The name of its type if the text is empty.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][
        :limit
    ]
