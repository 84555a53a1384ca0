"""Metrics lines and progress messages of a training run.

reporter = Reporter(log, progress, train_steps=100, epoch=..., tflop=...)
reporter.write_train(50, loss=2.1, accuracy=0.2, ...)
reporter.write_evaluation(100, "test", loss=1.9, accuracy=0.3, ...)
"""

from collections.abc import Callable

from job.output.metrics import MetricsLog
from job.output.progress import Progress


class Reporter:
    """Writes each measurement to the metrics log and shows it to the user.

    Attributes:
      log: Metrics log of the run.
      progress: Progress bar, or log lines without a terminal.
    """

    def __init__(
        self,
        log: MetricsLog,
        progress: Progress,
        *,
        train_steps: int,
        epoch: Callable[[int], float],
        tflop: Callable[[int], float] = lambda step: 0.0,
    ) -> None:
        """Combines a metrics log and a progress display.

        Args:
          log: Open metrics log.
          progress: Progress display.
          train_steps: Number of steps of the run.
          epoch: Function from a number of steps to a number of epochs.
          tflop: Function from a number of steps to the cost of training so
            far, in 10^12 floating-point operations.
        """
        self.log = log
        self.progress = progress
        self._train_steps = train_steps
        self._epoch = epoch
        self._tflop = tflop

    def show(
        self,
        step: int,
        *,
        loss: float,
        accuracy: float,
        images_per_second: float,
    ) -> None:
        """Moves the progress bar; writes no line."""
        self.progress.update(
            step,
            loss=loss,
            accuracy=accuracy,
            images_per_second=images_per_second,
        )

    def write_train(
        self,
        step: int,
        *,
        loss: float,
        accuracy: float,
        learning_rate: float,
        images_per_second: float,
    ) -> None:
        """Writes the training metrics since the last line.

        Args:
          step: Number of completed steps.
          loss: Mean training loss, label smoothing included.
          accuracy: Mean training accuracy, 0 to 1.
          learning_rate: Learning rate of the last step.
          images_per_second: Throughput since the last line.
        """
        self._write(
            step, "train", loss, accuracy, learning_rate, images_per_second
        )
        self.show(
            step,
            loss=loss,
            accuracy=accuracy,
            images_per_second=images_per_second,
        )
        if self.progress.quiet:
            self.progress.line(
                f"{self._position(step)} train loss {loss:.4f} accuracy"
                f" {accuracy:.4f} learning_rate {learning_rate:.4g} images/s"
                f" {images_per_second:.0f}"
            )

    def write_evaluation(
        self,
        step: int,
        split: str,
        *,
        loss: float,
        accuracy: float,
        images_per_second: float,
    ) -> None:
        """Writes the scores of an evaluation.

        Args:
          step: Number of completed steps.
          split: Name of the evaluated split: test or validation.
          loss: Mean cross-entropy without label smoothing.
          accuracy: Accuracy, 0 to 1.
          images_per_second: Throughput of the evaluation.
        """
        self._write(
            step, split, loss, accuracy, None, round(images_per_second, 1)
        )
        self.progress.line(
            f"{self._position(step)} {split} loss {loss:.4f} accuracy"
            f" {accuracy:.4f}"
        )

    def message(self, text: str) -> None:
        """Writes one line for the user; not part of the metrics."""
        self.progress.line(text)

    def close(self) -> None:
        """Closes the display and the log."""
        self.progress.close()
        self.log.close()

    def _position(self, step: int) -> str:
        return f"step {step}/{self._train_steps} epoch {self._epoch(step):.2f}"

    def _write(
        self,
        step: int,
        split: str,
        loss: float,
        accuracy: float,
        learning_rate: float | None,
        images_per_second: float,
    ) -> None:
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
