"""First hour of the job on a GPU, with checks, speed, accuracy and a resume.

    python -m benchmarks.first_hour --data=DIR --stage=all --output=first-hour

It installs and downloads nothing. A stage takes at most 9 minutes, and
`--stage` runs one of them, in any order. OUTPUT/first-hour.json and
OUTPUT/first-hour.md contain the figures and the last lines of every command.
`--rehearse` runs the same commands on a CPU with a small network.
"""

import argparse
import importlib.util
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_STAGES = ("checks", "benchmark", "frameworks", "train", "resume")
_STAGE_SECONDS = 540.0
_TAIL_LINES = 40
_BATCHES = (512, 1024)

_DEVICES = """
import json, pathlib
from job.supervision import startup
startup.import_tensorflow()
import tensorflow as tf
from job.distribute import gpus
devices = tf.config.list_physical_devices("GPU")
gpus.check(devices, precision="bfloat16")
details = [tf.config.experimental.get_device_details(d) for d in devices]
driver = gpus.DRIVER.read_text() if gpus.DRIVER.exists() else ""
print(json.dumps({"gpus": details, "tensorflow": tf.__version__,
                  "driver": driver}, default=str))
"""


class Hour:
    """Commands of all stages, and their output."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Reads the report of earlier stages, if any.

        Args:
          args: Parsed command line.
        """
        self._args = args
        self._folder = args.output.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "first-hour.json"
        self.report: dict[str, Any] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def run(self, stage: str) -> bool:
        """Runs a stage, writes the report and returns whether it passed.

        Args:
          stage: Name of the stage.
        """
        deadline = time.monotonic() + _STAGE_SECONDS
        commands: list[dict[str, Any]] = []
        entry: dict[str, Any] = {"commands": commands}
        self.report[stage] = entry
        for name, command, kill_at in self._commands(stage):
            print(f"{stage}: {name}", flush=True)
            remaining = deadline - time.monotonic()
            done = _execute(command, remaining, kill_at)
            commands.append({"name": name, "command": command[1:], **done})
            if not done["passed"]:
                print(done["output"], file=sys.stderr)
                break
        entry["results"] = results = self._results(stage)
        entry["passed"] = all(c["passed"] for c in commands)
        entry["passed"] &= results.get("is_equal", True)
        self._write()
        return bool(entry["passed"])

    def _job(
        self, workdir: str, *arguments: str, config: str = ""
    ) -> list[str]:
        """Returns a command of the job on the GPU, or small and on a CPU."""
        rehearsing = self._args.rehearse
        name = "smoke" if rehearsing else (config or "stem32")
        command = [sys.executable, "-m", "job.main"]
        command += [f"--config=configs/{name}.py"]
        command += [f"--workdir={self._folder / workdir}"]
        if not rehearsing:
            command += [f"--config.data.dir={self._args.data}"]
            command += ["--config.distribute.require_gpus=1"]
        return [*command, *arguments]

    def _commands(
        self, stage: str
    ) -> Iterator[tuple[str, list[str], pathlib.Path | None]]:
        """Yields name and command, and the folder that triggers a kill."""
        if stage == "checks":
            if not self._args.rehearse:
                yield "nvidia-smi", ["nvidia-smi"], None
            yield "devices", [sys.executable, "-c", _DEVICES], None
            fields = ["--config.steps=20", "--config.evaluate.every_epochs=0.0"]
            yield "20 steps", self._job("checks", *fields), None
        elif stage == "benchmark":
            for batch in (64,) if self._args.rehearse else _BATCHES:
                fields = [
                    "--mode=benchmark",
                    f"--config.global_batch_size={batch}",
                ]
                # stem32.py begins with images of 24 pixels.
                job = self._job(f"benchmark-{batch}", *fields, config="default")
                yield f"batch {batch}", job, None
        elif stage == "frameworks":
            yield from self._frameworks()
        elif stage == "train":
            yield "20 epochs", self._job("train"), None
        elif stage == "resume":
            fields = ["--config.deterministic=true"]
            fields += ["--config.checkpoint.every_steps=5"]
            if not self._args.rehearse:
                fields[1] = "--config.checkpoint.every_steps=100"
            yield "uninterrupted", self._job("whole", *fields), None
            killed = self._job("killed", *fields)
            yield "killed", killed, self._folder / "killed/checkpoints"
            yield "resumed", killed, None

    def _frameworks(
        self,
    ) -> Iterator[tuple[str, list[str], pathlib.Path | None]]:
        torch = self._args.torch
        if not torch and importlib.util.find_spec("torch"):
            torch = sys.executable
        for batch in (32,) if self._args.rehearse else _BATCHES:
            command = [sys.executable, "-m", "benchmarks.frameworks"]
            command += [f"--batch={batch}", "--precision=bfloat16"]
            command += ["--rounds=5", "--no_keras"]
            command += [f"--json={self._folder / f'frameworks-{batch}.json'}"]
            if self._args.rehearse:
                command += ["--width=0.125", "--seconds=0.5"]
            if torch:
                command += [f"--torch={torch}"]
            yield f"batch {batch}", command, None

    def _results(self, stage: str) -> dict[str, Any]:
        """Returns the result files of a stage."""
        patterns = {
            "benchmark": "benchmark-*/benchmark.json",
            "frameworks": "frameworks-*.json",
            "train": "train/result.json",
            "resume": "*/result.json",
        }
        results = {
            str(path.relative_to(self._folder)): json.loads(path.read_text())
            for path in sorted(self._folder.glob(patterns.get(stage, "-")))
        }
        if stage != "resume":
            return results
        runs = [
            results.get(f"{n}/result.json", {}) for n in ("whole", "killed")
        ]
        fields = ("test_accuracy", "test_loss", "train_steps")
        return {
            "is_equal": all(runs)
            and all(runs[0][name] == runs[1][name] for name in fields),
            **{name: [run.get(name) for run in runs] for name in fields},
            "resumes": runs[1].get("resumes"),
        }

    def _write(self) -> None:
        text = json.dumps(self.report, indent=1)
        (self._folder / "first-hour.json").write_text(text + "\n")
        lines = ["# First hour on a GPU", ""]
        for stage in _STAGES:
            if stage not in self.report:
                lines += [f"## {stage}: not run", ""]
                continue
            entry = self.report[stage]
            passed = "passed" if entry["passed"] else "FAILED"
            lines += [f"## {stage}: {passed}", ""]
            for command in entry["commands"]:
                lines += [
                    f"{command['name']}: {command['seconds']:.0f} s, exit code"
                    f" {command['exit_code']}",
                    "",
                    "```",
                    command["output"],
                    "```",
                    "",
                ]
            results = json.dumps(entry["results"], indent=1)
            lines += ["```json", results, "```", ""]
        (self._folder / "first-hour.md").write_text("\n".join(lines))


def _execute(
    command: list[str], seconds: float, kill_at: pathlib.Path | None
) -> dict[str, Any]:
    """Runs a command, for which a planned kill is a success.

    Args:
      command: Command and its arguments.
      seconds: Time limit in seconds.
      kill_at: Folder whose first checkpoint triggers a kill. If None, only the
        time limit does.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT
            )
        except OSError as error:
            log.write(str(error).encode())
            code = 127
        else:
            while process.poll() is None:
                is_due = kill_at and any(kill_at.glob("step-*.safetensors"))
                if is_due or time.monotonic() - start > seconds:
                    process.kill()
                    process.wait()
                time.sleep(0.1)
            code = process.returncode
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    return {
        "passed": code == (-signal.SIGKILL if kill_at else 0),
        "exit_code": code,
        "seconds": round(time.monotonic() - start, 1),
        "output": "\n".join(lines[-_TAIL_LINES:]),
    }


def main() -> int:
    """Runs the stages and returns 1 if one of them failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="Folder of CIFAR-10")
    parser.add_argument("--stage", default="all", choices=["all", *_STAGES])
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs/first-hour")
    )
    parser.add_argument("--torch", help="Path of a Python with PyTorch")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    if not args.data and not args.rehearse:
        parser.error("--data is missing. Fix: set --data=DIR with CIFAR-10")
    if args.data:
        args.data = pathlib.Path(args.data).resolve()
    hour = Hour(args)
    stages = _STAGES if args.stage == "all" else [args.stage]
    passed = [hour.run(stage) for stage in stages]
    print(f"Wrote {args.output}/first-hour.md and first-hour.json")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
