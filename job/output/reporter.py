"""Metrics lines and progress messages of a training run.

reporter = Reporter(log, progress, train_steps=100, global_batch_size=512, ...)
reporter.write(50, "train", loss=2.1, accuracy=0.2, ...)
reporter.write(100, "test", loss=1.9, accuracy=0.3, ...)
"""

from collections.abc import Callable

from job.output.metrics import MetricsLog
from job.output.progress import Progress, format_duration


class Reporter:
    """Writer of measurements to the metrics log and the progress display.

    Attributes:
      log: Metrics log of the run.
      progress: Progress display of the run.
    """

    def __init__(
        self,
        log: MetricsLog,
        progress: Progress,
        *,
        train_steps: int,
        global_batch_size: int,
        epoch: Callable[[int], float],
        tflop: Callable[[int], float] = lambda step: 0.0,
    ) -> None:
        """Combines a metrics log and a progress display.

        Args:
          log: Open metrics log.
          progress: Progress display.
          train_steps: Number of steps of the run.
          global_batch_size: Number of images per step.
          epoch: Function from a number of steps to a number of epochs.
          tflop: Function from a number of completed steps to their cost, in
            10^12 floating-point operations.
        """
        self.log = log
        self.progress = progress
        self._train_steps = train_steps
        self._global_batch_size = global_batch_size
        self._epoch = epoch
        self._tflop = tflop
        # Number of calls of `show` so far.
        self._shown = 0

    def show(
        self,
        step: int,
        *,
        loss: float,
        accuracy: float,
        images_per_second: float,
    ) -> None:
        """Updates the progress bar, and logs the remaining time once.

        Args:
          step: Number of completed steps.
          loss: Mean training loss.
          accuracy: Mean training accuracy, 0 to 1.
          images_per_second: Throughput of recent calls.
        """
        self._shown += 1
        eta = self._eta(step, images_per_second)
        self.progress.update(
            step,
            f"loss {loss:.3f}  accuracy {accuracy:.1%}"
            f"  {images_per_second:,.0f} images/s  ETA {eta}",
        )
        if self._shown == 2:
            self.progress.line(
                f"Estimated time left: {eta} for"
                f" {self._train_steps - step:,} steps at"
                f" {images_per_second:,.0f} images/s"
            )

    def write(
        self,
        step: int,
        split: str,
        *,
        loss: float,
        accuracy: float,
        images_per_second: float,
        learning_rate: float | None = None,
    ) -> None:
        """Writes the training metrics since the last line, or an evaluation.

        Args:
          step: Number of completed steps.
          split: Name of the split: train, test or validation.
          loss: Mean loss, in training with label smoothing.
          accuracy: Mean accuracy, 0 to 1.
          images_per_second: Throughput since the last line, or of the
            evaluation.
          learning_rate: Learning rate of the last step. None in an evaluation.
        """
        self.log.write(
            {
                "step": step,
                "epoch": self._epoch(step),
                "split": split,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": learning_rate,
                "images_per_second": images_per_second,
                "train_tflop": round(self._tflop(step), 3),
            }
        )
        line = (
            f"step {step}/{self._train_steps}  epoch {self._epoch(step):.2f}"
            f"  {split} loss {loss:.3f}  accuracy "
        )
        if learning_rate is None:
            self.progress.line(f"{line}{accuracy:.2%}")
            return
        self.show(
            step,
            loss=loss,
            accuracy=accuracy,
            images_per_second=images_per_second,
        )
        if not self.progress.has_bar:
            self.progress.line(
                f"{line}{accuracy:.1%}  lr {_format_rate(learning_rate)}"
                f"  {images_per_second:,.0f} images/s"
                f"  ETA {self._eta(step, images_per_second)}"
            )

    def message(self, text: str) -> None:
        """Writes one line to the progress display only."""
        self.progress.line(text)

    def close(self) -> None:
        """Closes the display and the log."""
        self.progress.close()
        self.log.close()

    def _eta(self, step: int, images_per_second: float) -> str:
        """Returns the time until the last step, without the evaluations.

        It is "?" after the first call, whose throughput includes compilation.
        The remaining time is proportional to the remaining floating-point
        operations, because phases differ in their cost per step.
        """
        if self._shown < 2:
            return "?"
        cost = self._tflop(step) - self._tflop(step - 1)
        remaining = self._tflop(self._train_steps) - self._tflop(step)
        steps = remaining / cost if cost > 0 else self._train_steps - step
        return format_duration(
            steps * self._global_batch_size / images_per_second
        )


def _format_rate(rate: float) -> str:
    """Returns a learning rate with three decimals, or two digits if small."""
    return f"{rate:.3f}" if rate >= 0.01 or not rate else f"{rate:.2g}"
