"""Comparison of the training speed of the job with Keras `fit` and PyTorch.

    python -m benchmarks.frameworks --precision=bfloat16 --torch=DIR/bin/python
    python -m benchmarks.frameworks --replicas=2 --no_keras

In each round, every framework trains for some seconds in turn. A ratio is that
of two turns of the same round, because other load on the machine affects both.
The report has medians with their 95 % bootstrap intervals. The first turns,
which compile, are not counted. `--replicas=2` splits the CPU in two.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_JOB = "ours"
_WARM_UP_STEPS = 3


@dataclasses.dataclass
class _Framework:
    """Training process of a framework; see `step_server`."""

    name: str
    process: subprocess.Popen

    def run(self, steps: int) -> float:
        """Runs steps and returns their duration in seconds.

        Args:
          steps: Number of steps.
        """
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(steps, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.name} exited with {self.process.wait()}. Fix: see its"
                " output above"
            )
        return float(line)


@contextlib.contextmanager
def _started(
    args: argparse.Namespace,
) -> Iterator[list[_Framework]]:
    common = [
        f"--batch={args.batch}",
        f"--width={args.width}",
        f"--precision={args.precision}",
    ]
    here = [sys.executable, "-m"]
    commands = {_JOB: [*here, "benchmarks.job_steps"]}
    if args.replicas > 1:
        name = f"{_JOB}, {args.replicas} of it"
        commands[name] = [*commands[_JOB], f"--replicas={args.replicas}"]
    if not args.no_keras:
        commands["keras fit"] = [*here, "benchmarks.keras_fit"]
    if args.torch:
        script = str(_ROOT / "benchmarks" / "torch_steps.py")
        commands["torch eager"] = [args.torch, script]
        if not args.no_compile:
            commands["torch.compile"] = [args.torch, script, "--compile"]
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # By default TensorFlow reserves all GPU memory, which is shared here.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **os.environ,
    }
    frameworks = [
        _Framework(
            name,
            subprocess.Popen(
                [*command, *common],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ),
        )
        for name, command in commands.items()
    ]
    try:
        yield frameworks
    finally:
        for framework in frameworks:
            framework.process.kill()
            framework.process.wait()


def _interval(values: list[float]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    samples = rng.choice(values, (2000, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _spread(values: list[float]) -> dict[str, float]:
    low, high = _interval(values)
    return {"median": statistics.median(values), "low": low, "high": high}


def main() -> None:
    """Measures all frameworks and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="Duration of a turn in s"
    )
    parser.add_argument("--torch", help="Path of a Python with PyTorch")
    parser.add_argument("--no_compile", action="store_true")
    parser.add_argument("--no_keras", action="store_true")
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        help="Also measure the job with this number of replicas",
    )
    parser.add_argument("--json", type=pathlib.Path, help="Output file")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with _started(args) as frameworks:
        counts = {}
        for framework in frameworks:
            framework.run(_WARM_UP_STEPS)
            count = _WARM_UP_STEPS
            # The second estimate uses a turn of almost the final length. With
            # few fast steps, the overhead of a turn distorts the first one.
            for _ in range(2):
                seconds = min(framework.run(count) for _ in range(2))
                count = max(2, round(args.seconds / seconds * count))
            counts[framework.name] = count
            # Keras traces again when the number of steps changes.
            framework.run(count)
        for number in range(args.rounds):
            # The order alternates, so that no framework always runs first.
            for framework in frameworks if number % 2 else reversed(frameworks):
                steps = counts[framework.name]
                rates.setdefault(framework.name, []).append(
                    steps * args.batch / framework.run(steps)
                )
    report = {
        name: {
            "images_per_second": _spread(values),
            "ours_over_it": _spread(
                [a / b for a, b in zip(rates[_JOB], values, strict=True)]
            ),
        }
        for name, values in sorted(
            rates.items(), key=lambda item: item[0] != _JOB
        )
    }
    print(
        f"batch {args.batch}, width {args.width:g}, {args.precision}, median of"
        f" {args.rounds} rounds and its 95 % interval"
    )
    print(f"{'':<14}{'images/s':>9}{'from':>9}{'to':>9}{'ours/it':>9}")
    for name, figures in report.items():
        rate, ratio = figures["images_per_second"], figures["ours_over_it"]
        print(
            f"{name:<14}{rate['median']:>9,.1f}{rate['low']:>9,.1f}"
            f"{rate['high']:>9,.1f}{ratio['median']:>9.2f}"
            f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
