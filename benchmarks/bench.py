"""Trains with the job and with its peers in turn, and prints the ratios.

    python -m benchmarks.bench --precision=bfloat16 --torch=DIR/bin/python
    python -m benchmarks.bench --replicas=2 --no_keras    # of one CPU, split

A round lets each of them train for some seconds; a ratio is that of one round,
so what else the machine does hits both sides. Medians, and the 95 % interval
of the median by bootstrap. The first turns, which compile, do not count.
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
_OURS = "ours"
_WARM_UP_STEPS = 3


@dataclasses.dataclass
class _Peer:
    """A process that trains when it is told to; see `turns`."""

    name: str
    process: subprocess.Popen

    def run(self, steps: int) -> float:
        """Returns how many seconds so many steps take."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(steps, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.name} ended with {self.process.wait()}; above is why"
            )
        return float(line)


@contextlib.contextmanager
def _started(
    args: argparse.Namespace,
) -> Iterator[list[_Peer]]:
    common = [
        f"--batch={args.batch}",
        f"--width={args.width}",
        f"--precision={args.precision}",
    ]
    here = [sys.executable, "-m"]
    commands = {_OURS: [*here, "benchmarks.ours"]}
    if args.replicas > 1:
        name = f"{_OURS}, {args.replicas} of it"
        commands[name] = [*commands[_OURS], f"--replicas={args.replicas}"]
    if not args.no_keras:
        commands["keras fit"] = [*here, "benchmarks.keras_fit"]
    if args.torch:
        script = str(_ROOT / "tests" / "peers" / "torch_steps.py")
        commands["torch eager"] = [args.torch, script]
        if not args.no_compile:
            commands["torch.compile"] = [args.torch, script, "--compile"]
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # By itself TensorFlow takes all of a GPU; here others want some of it.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **os.environ,
    }
    peers = [
        _Peer(
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
        yield peers
    finally:
        for peer in peers:
            peer.process.kill()
            peer.process.wait()


def _interval(values: list[float]) -> tuple[float, float]:
    """Returns the median's 95 % interval, by bootstrap."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (2000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _spread(values: list[float]) -> dict[str, float]:
    low, high = _interval(values)
    return {"median": statistics.median(values), "low": low, "high": high}


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="a turn")
    parser.add_argument("--torch", help="a Python that has PyTorch")
    parser.add_argument("--no_compile", action="store_true")
    parser.add_argument("--no_keras", action="store_true")
    parser.add_argument(
        "--replicas", type=int, default=1, help="the job also on so many"
    )
    parser.add_argument("--json", type=pathlib.Path, help="file for the result")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with _started(args) as peers:
        counts = {}
        for peer in peers:
            peer.run(_WARM_UP_STEPS)
            count = _WARM_UP_STEPS
            # Once more, by a turn of almost the right length: of a few steps
            # the start of a turn is too large a part, where they are quick.
            for _ in range(2):
                seconds = min(peer.run(count) for _ in range(2))
                count = max(2, round(args.seconds / seconds * count))
            counts[peer.name] = count
            # Keras traces anew for another number of steps.
            peer.run(count)
        for number in range(args.rounds):
            # Whoever comes first does so every other time.
            for peer in peers if number % 2 else reversed(peers):
                steps = counts[peer.name]
                rates.setdefault(peer.name, []).append(
                    steps * args.batch / peer.run(steps)
                )
    report = {
        name: {
            "images_per_second": _spread(values),
            "ours_over_it": _spread(
                [a / b for a, b in zip(rates[_OURS], values, strict=True)]
            ),
        }
        for name, values in sorted(
            rates.items(), key=lambda item: item[0] != _OURS
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
