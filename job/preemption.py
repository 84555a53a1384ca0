"""SIGTERM and Ctrl-C: a wish to stop, heard at once, granted in good order.

    stop = StopRequest()
    stop.install()              # before TensorFlow is imported: that takes
    seconds if stop.requested: ...      # between two pieces of work

The second signal ends the process on the spot. Imports no TensorFlow.
"""

import os
import signal
import sys
from types import FrameType

from job import errors


class StopRequest:
    """Remembers that the process was told to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._signal = ""

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT; call it from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def check(
        self, saved: str = "before a step of this start; nothing is lost"
    ) -> None:
        """Raises PreemptedError if the process was told to stop.

        Args:
          saved: what the last line says of the state that a later start finds.
        """
        if self.requested:
            raise errors.PreemptedError(f"stopped by {self._signal}: {saved}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            os._exit(errors.PreemptedError.exit_code)
        self.requested = True
        self._signal = signal.Signals(number).name
        # Logging takes locks, which the interrupted code may hold.
        message = (
            f"{self._signal}: stopping in good order; once more ends at once\n"
        )
        os.write(sys.stderr.fileno(), message.encode())
