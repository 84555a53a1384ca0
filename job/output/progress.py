"""Progress of a run, as a bar on a terminal and as lines in a log.

A bar is redrawn in place, so in a log it would leave many copies.

    log_to_stderr()
    progress = Progress(train_steps, first_step=0)
    progress.update(step, "loss 1.250  accuracy 50.0%")
    progress.line("step 40/100  test loss 1.100")
"""

import logging as python_logging
import sys

import tqdm
from absl import logging


def log_to_stderr() -> None:
    """Configures logging to standard error, with a time and a message."""
    handler = _Handler()
    handler.setFormatter(_Formatter("%(message)s"))
    python_logging.getLogger().addHandler(handler)
    logging.set_verbosity(logging.INFO)


class _Handler(python_logging.StreamHandler):
    """Handler that writes each line above the bar, if any."""

    def emit(self, record: python_logging.LogRecord) -> None:
        with tqdm.tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _Formatter(python_logging.Formatter):
    def format(self, record: python_logging.LogRecord) -> str:
        time = self.formatTime(record, "%H:%M:%S")
        is_problem = record.levelno >= python_logging.WARNING
        level = f"{record.levelname.lower()}: " if is_problem else ""
        return f"{time}  {level}{super().format(record)}"


class Progress:
    """Progress display of a run.

    On a terminal, a bar is redrawn at each call of `update`. Otherwise only
    `line` writes.
    """

    def __init__(
        self, train_steps: int, *, first_step: int, silent: bool = False
    ) -> None:
        """Draws the bar.

        Args:
          train_steps: Number of steps of the run.
          first_step: Number of completed steps.
          silent: Whether to suppress both the bar and the lines.
        """
        self._silent = silent
        self._bar = tqdm.tqdm(
            total=train_steps,
            initial=first_step,
            dynamic_ncols=True,
            disable=silent or not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}  {desc}",
        )

    @property
    def has_bar(self) -> bool:
        """Returns whether a bar is shown, as on a terminal."""
        return not self._bar.disable

    def update(self, step: int, text: str) -> None:
        """Moves the bar to `step` and shows `text` after it."""
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def line(self, text: str) -> None:
        """Logs one line above the bar, if any."""
        if not self._silent:
            logging.info("%s", text)

    def close(self) -> None:
        """Ends the bar, which remains visible."""
        self._bar.close()


def format_duration(seconds: float) -> str:
    """Returns a duration as text, such as "43 s" or "2 h 05 min".

    Args:
      seconds: Duration in seconds, 0 or above.
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
