"""Progress of a run: a bar on a terminal, plain lines in a log.

A bar is redrawn in place, which would fill a pod's log with copies of it.

    progress = Progress(train_steps, first_step=0)
    progress.update(step, loss=..., accuracy=..., images_per_second=...)
"""

import sys
import time

import tqdm
from absl import logging


class Progress:
    """Shows the progress of a run.

    On a terminal, a bar with loss, accuracy, images per second and remaining
    time is redrawn at each call. Otherwise only `line` writes anything.
    """

    def __init__(
        self, train_steps: int, *, first_step: int, quiet: bool = False
    ) -> None:
        self._bar = tqdm.tqdm(
            total=train_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=quiet or not sys.stderr.isatty(),
            bar_format=(
                "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, "
                "{remaining} left{postfix}"
            ),
        )

    @property
    def quiet(self) -> bool:
        """Whether the bar is off, as without a terminal."""
        return self._bar.disable

    def update(
        self,
        step: int,
        *,
        loss: float,
        accuracy: float,
        images_per_second: float,
    ) -> None:
        """Moves the bar to `step`."""
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, accuracy {accuracy:.1%},"
            f" {images_per_second:,.0f} img/s",
            refresh=False,
        )
        self._bar.update(step - self._bar.n)

    def line(self, text: str) -> None:
        """Writes one line: above the bar, or into the log."""
        if self.quiet:
            logging.info("%s", text)
        else:
            self._bar.write(
                f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr
            )

    def close(self) -> None:
        """Ends the bar, which stays visible."""
        self._bar.close()
