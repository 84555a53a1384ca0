"""Last line and exit code of the process."""

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator

from absl import logging

from job import errors
from job.storage import files
from job.supervision import termination
from job.supervision.preemption import StopRequest


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Re-raises errors of the operating system as StorageError.

    Other unexpected errors are written to the termination log and re-raised.
    """
    try:
        yield
    except errors.JobError:
        raise
    except BaseException as error:
        if isinstance(error, OSError) and (
            error.filename or error.errno in files.FULL
        ):
            raise errors.StorageError(
                f"{error.filename or 'a file'}: {files.explain(error)}"
            ) from None
        text = f"bug: {type(error).__name__}: {error}"
        termination.write(errors.JobError.exit_code, text)
        raise


def report_error(error: errors.JobError, stop: StopRequest) -> int:
    """Prints an error as the last line and returns its exit code.

    Args:
      error: Error that ends the job.
      stop: Stop request, which reserves the last line.
    """
    _flush_logs()
    stop.claim_last_line()
    kind = errors.kind_of(error).__name__
    name = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()
    if isinstance(error, errors.PreemptedError):
        name = "preempted"
    # The message may contain text from a file name or a damaged file.
    line = errors.printable(f"{name}: {' '.join(str(error).split())}")
    # A single write keeps the line intact if other threads write too.
    with contextlib.suppress(OSError):  # The pipe may have no reader.
        sys.stderr.write(f"{line}\n")
    termination.write(error.exit_code, line)
    return error.exit_code


def exit_on_thread_error(failed: threading.ExceptHookArgs) -> None:
    """Ends the process after an exception in a thread.

    By default Python would only print a traceback, and the process would wait
    forever or continue without the thread's work.

    Args:
      failed: Exception and thread, as in `threading.excepthook`.
    """
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread else "?"
    lines = traceback.format_exception(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )
    text = f"{''.join(lines)}bug: thread {name} failed, so the job exits\n"
    termination.write(
        errors.JobError.exit_code, f"bug: thread {name}: {failed.exc_value}"
    )
    termination.say(text)
    os._exit(errors.JobError.exit_code)


def _flush_logs() -> None:
    for handler in logging.get_absl_logger().handlers:
        handler.flush()


def exit_now(code: int) -> None:
    """Ends the process without waiting for threads or exit handlers.

    Args:
      code: Exit code.
    """
    _flush_logs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # It may be closed.
            stream.flush()
    os._exit(code)
