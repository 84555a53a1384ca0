"""Repeats trials of a review that ended in a traceback or a hang.

    python -m tests.support.trials [WORD...]

Prints one line per trial whose name has one of the words, with the outcome, the
exit code and the last line. Each trial runs the real job with its own command
line, in a child that is forked after TensorFlow's import. "nobody" trials run
as another user, which requires root.
"""

import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np
from PIL import Image

from configs import smoke
from job import main as job
from job.checkpoint import format as format_lib
from job.config import serialization
from job.diagnose import diagnosis as diagnosis
from job.supervision import exits, preemption, startup, termination
from tests.support.finished_run import write_run
from tests.support.jobs import ROOT

SECONDS = 300.0
LONG = "x" * 300
DEEP = "[" * 100_000
NOBODY = 65534
SMOKE = ("--config=configs/smoke.py", "--config.model.width=0.0625")


class Place:
    """Files of a trial.

    Attributes:
      root: Folder of all files.
      run: Folder of a finished run.
    """

    def __init__(self, root: pathlib.Path, trained: pathlib.Path | None):
        self.root, self.run = root, root / "run"
        root.mkdir()
        root.chmod(0o755)
        if trained:
            shutil.copytree(trained, self.run)
        else:
            self.run.mkdir()
            write_run(self.run)
            fields = serialization.to_json(smoke.get_config())
            (self.run / "config.json").write_text(json.dumps(fields))
        image = np.zeros((40, 40, 3), np.uint8)
        Image.fromarray(image).save(root / "a.png")

    def put(self, name: str, content: bytes | str) -> "Place":
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data)
        return self

    def folder(self, name: str) -> "Place":
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).mkdir(parents=True)
        return self

    def fifo(self, name: str) -> str:
        (self.root / name).unlink(missing_ok=True)
        os.mkfifo(self.root / name)
        return str(self.root / name)

    def change(self, name: str, **values) -> "Place":
        path = self.root / name
        lines = path.read_text().splitlines()
        whole = path.suffix == ".json"
        found = json.loads("\n".join(lines) if whole else lines[-1])
        found |= values
        found = {k: v for k, v in found.items() if v != "gone"}
        text = json.dumps(found)
        path.write_text(text if whole else "\n".join([*lines[:-1], text]))
        return self

    def arrays(self, **values) -> "Place":
        path = self.run / "predictions.npz"
        with np.load(path) as archive:
            arrays = {**archive, **values}
        np.savez_compressed(path, **arrays)
        return self

    def header(self, **values) -> "Place":
        """Rewrites a checkpoint's metadata, with a valid checksum."""
        for path in (self.run / "checkpoints").glob("*.safetensors"):
            with path.open("rb") as file:
                size = path.stat().st_size
                found = format_lib.read_header(file, size)
                tensors = format_lib.read_tensors(file, found)
            run = {**found.run, **values}
            pieces = format_lib.encode(found.step, tensors, run)
            path.write_bytes(b"".join(piece.tobytes() for piece in pieces))
        return self


def fork(
    args: tuple[str, ...],
    *,
    environment: dict[str, str],
    before: Callable[[], None],
) -> tuple[int, str]:
    """Runs the job in a child; returns its exit code and its output."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            for number in (1, 2):
                os.dup2(writer, number)
            os.close(writer)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
            os.environ.update(environment)
            os.chdir(ROOT)
            before()
            termination.open_streams()
            stop = preemption.StopRequest()
            stop.install()
            code = job.main(["job", *args], stop)
            exits.exit_now(code)
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode(errors="replace"))
        os._exit(1)
    os.close(writer)
    signal.alarm(int(SECONDS))
    try:
        with os.fdopen(reader, errors="replace") as stream:
            output = stream.read()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), output
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -999, "hang"
    finally:
        signal.alarm(0)


def on_alarm(number, frame) -> None:
    raise TimeoutError


def report_of(change: Callable[[Place], object]) -> Callable:
    def prepare(place):
        change(place)
        return ("--mode=report", f"--workdir={place.run}")

    return prepare


def compare_of(change: Callable[[Place], object], name: str = "b") -> Callable:
    def prepare(place):
        shutil.copytree(place.run, place.root / name)
        change(place)
        runs = f"--runs={place.root / name}"
        return ("--mode=report", f"--workdir={place.run}", runs)

    return prepare


def train_of(change: Callable[[Place], object], *args: str) -> Callable:
    def prepare(place):
        shutil.rmtree(place.run)
        place.run.mkdir()
        change(place)
        shown = [arg.replace("ROOT", str(place.root)) for arg in args]
        return (*(shown or SMOKE), f"--workdir={place.run}")

    return prepare


def again_of(change: Callable[[Place], object], *args: str) -> Callable:
    """Returns a trial that repeats the finished run's own command."""

    def prepare(place):
        change(place)
        return (*SMOKE, *args, f"--workdir={place.run}")

    return prepare


def mode(name: str, *args: str, change=lambda place: None) -> Callable:
    def prepare(place):
        change(place)
        shown = [arg.replace("ROOT", str(place.root)) for arg in args]
        return (f"--mode={name}", f"--workdir={place.run}", *shown)

    return prepare


def plain(*args: str, change=lambda place: None) -> Callable:
    def prepare(place):
        change(place)
        return tuple(arg.replace("ROOT", str(place.root)) for arg in args)

    return prepare


def write_keras(place: Place, kind: str) -> None:
    path = place.root / "a.keras"
    if kind == "unbuilt":
        keras.Sequential([keras.layers.Dense(3)]).save(path)
        return
    if kind == "dense":
        keras.saving.save_model(keras.layers.Dense(3), path)
        return
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    if kind == "deep":
        members["config.json"] = DEEP.encode()
    else:
        config = json.loads(members["config.json"])
        config["class_name"] = [kind]
        members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def null_weights(place: Place) -> None:
    with h5py.File(place.root / "w.h5", "w") as file:
        name = "block1_conv1/block1_conv1_W_1:0"
        file.create_dataset(name, dtype="f4", data=h5py.Empty("f4"))


def flip(place: Place) -> None:
    path = place.run / "predictions.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def close(place: Place) -> None:
    (place.root / "closed").mkdir()
    (place.root / "closed").chmod(0o700)


def config(body: str) -> Callable:
    return plain(
        *("--config=ROOT/c.py", "--workdir=ROOT/new"),
        change=lambda place: place.put("c.py", body),
    )


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)


def close_streams(*numbers: int) -> Callable[[], None]:
    return lambda: [os.close(number) for number in numbers] and None


def open_full(number: int) -> Callable[[], None]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), number) and None


def broken_pipe(*numbers: int) -> Callable[[], None]:
    def before():
        reader, writer = os.pipe()
        os.close(reader)
        for number in numbers:
            os.dup2(writer, number)

    return before


_STARTS = "starts.json"
NPZ = "run/predictions.npz"
# Name, expected exit codes and function that prepares the trial. Options are
# `env`, `before` (run in the child), `nobody` and `trained` (needs a real run).
TRIALS: list[tuple] = [
    *(
        (f"report: {name}", (0,), report_of(change))
        for name, change in {
            "class_names 0-dim": lambda p: p.arrays(class_names=np.array("a")),
            "labels 0-dim": lambda p: p.arrays(labels=np.array(1)),
            "probabilities strings": lambda p: p.arrays(
                probabilities=np.full((200, 10), "x")
            ),
            "labels float": lambda p: p.arrays(labels=np.zeros(200)),
            "pictures float64": lambda p: p.arrays(
                pictures=np.zeros((25, 32, 32, 3))
            ),
            "plain .npy as npz": lambda p: np.save(
                (p.root / NPZ).open("wb"), np.zeros(3)
            ),
            "one flipped bit in predictions.npz": flip,
            "result.json nested": lambda p: p.put("run/result.json", DEEP),
            "metrics line nested": lambda p: p.put("run/metrics.jsonl", DEEP),
            "accuracy an object": lambda p: p.change(
                "run/result.json", test_accuracy={}
            ),
            "replicas 2.5": lambda p: p.change("run/result.json", replicas=2.5),
            "last step a string": lambda p: p.change(
                "run/metrics.jsonl", step="a"
            ),
            "loss 1e308": lambda p: p.change("run/metrics.jsonl", loss=1e308),
            "metrics is a folder": lambda p: p.folder("run/metrics.jsonl"),
            "augmentation.png is a folder": lambda p: p.folder(
                "run/augmentation.png"
            ),
            "step of 400 digits": lambda p: p.change(
                "run/metrics.jsonl", step=10**400
            ),
            "checkpoint nested": lambda p: p.put(
                "run/checkpoints/step-00000020.safetensors", DEEP
            ),
        }.items()
    ),
    (
        "report: config.json nested",
        (2,),
        report_of(lambda p: p.put("run/config.json", DEEP)),
    ),
    (
        "report: seed 1.5",
        (2,),
        report_of(lambda p: p.change("run/config.json", seed=1.5)),
    ),
    ("long name: train", (2,), plain(*SMOKE, f"--workdir=ROOT/{LONG}")),
    *(
        (
            f"long name: {name}",
            (2,),
            plain(f"--mode={name}", f"--workdir={LONG}"),
        )
        for name in ("evaluate", "report")
    ),
    (
        "long name: data.dir",
        (3,),
        plain(
            *("--config=configs/stem32.py:10ep", "--workdir=ROOT/new"),
            f"--config.data.dir=ROOT/{LONG}",
        ),
    ),
    ("long name: --input", (3,), mode("predict", f"--input=ROOT/{LONG}")),
    (
        "long name: --keras_model",
        (2, 3),
        plain("--mode=diagnose", f"--keras_model=ROOT/{LONG}.keras"),
    ),
    (
        "long name: --heartbeat_file",
        (2,),
        plain(*SMOKE, "--workdir=ROOT/n", f"--heartbeat_file=ROOT/{LONG}"),
    ),
    *(
        (f"nobody: {name}", codes, plain(*args, change=close), {"nobody": True})
        for name, codes, args in (
            ("train", (2,), (*SMOKE, "--workdir=ROOT/closed/run")),
            (
                "evaluate",
                (2,),
                ("--mode=evaluate", "--workdir=ROOT/closed/run"),
            ),
            ("report", (2,), ("--mode=report", "--workdir=ROOT/closed/run")),
            (
                "keras_model",
                (2, 3),
                ("--mode=diagnose", "--keras_model=ROOT/closed/a.keras"),
            ),
            (
                "heartbeat",
                (2,),
                (*SMOKE, "--workdir=n", "--heartbeat_file=ROOT/closed/hb"),
            ),
            (
                "--input",
                (3,),
                (
                    *("--mode=predict", "--workdir=ROOT/run"),
                    "--input=ROOT/closed/a.png",
                ),
            ),
        )
    ),
    (
        "nobody: run of mode 0700",
        (2,),
        mode("evaluate", change=lambda p: p.run.chmod(0o700)),
        {"nobody": True},
    ),
    *(
        (
            f"resume: run.{name} forged",
            (4,),
            again_of(
                lambda p, name=name, value=value: (
                    p.header(**{name: value}),
                    (p.run / "result.json").unlink(),
                )
            ),
            {"trained": True},
        )
        for name, value in (
            ("resumes", "x"),
            ("starts", 5),
            ("config", []),
            ("rollbacks", ["x"]),
        )
    ),
    (
        "resume: checkpoint nested",
        (4,),
        again_of(
            lambda p: (
                [
                    p.put(f"run/checkpoints/{c.name}", DEEP)
                    for c in (p.run / "checkpoints").iterdir()
                ],
                (p.run / "result.json").unlink(),
            )
        ),
        {"trained": True},
    ),
    (
        "predict: FIFO",
        (3,),
        mode("predict", "--input=ROOT/f", change=lambda p: p.fifo("f")),
        {"trained": True},
    ),
    (
        "predict: /dev/zero",
        (3,),
        mode("predict", "--input=/dev/zero"),
        {"trained": True},
    ),
    (
        "predict: non-UTF-8 name",
        (0,),
        mode(
            *("predict", "--input=ROOT/\udcff.png"),
            change=lambda p: (p.root / "a.png").rename(p.root / "\udcff.png"),
        ),
        {"trained": True},
    ),
    (
        "predict: escape codes and a line break in a name",
        (0,),
        mode(
            *("predict", "--input=ROOT/pictures"),
            change=lambda p: (
                p.folder("pictures"),
                (p.root / "a.png").rename(
                    p.root / "pictures" / "\x1b[31ma\n99.9% cat.png"
                ),
            ),
        ),
        {"trained": True},
    ),
    (
        "weights: FIFO",
        (3,),
        train_of(
            lambda p: p.fifo("w.h5"),
            *("--config=configs/transfer.py", "--config.data.source=synthetic"),
            "--config.model.weights=ROOT/w.h5",
        ),
    ),
    (
        "config.json: FIFO",
        (2,),
        mode("evaluate", change=lambda p: p.fifo("run/config.json")),
    ),
    (
        "config.json: nested",
        (2,),
        mode("evaluate", change=lambda p: p.put("run/config.json", DEEP)),
    ),
    (
        "--config: FIFO",
        (2,),
        plain(
            *("--mode=config", "--config=ROOT/f.py"),
            change=lambda p: p.fifo("f.py"),
        ),
    ),
    (
        "config file: KeyboardInterrupt",
        (2,),
        config("def get_config(): raise KeyboardInterrupt"),
    ),
    ("config file: returns 5", (2,), config("def get_config(): return 5")),
    (
        "config file: BaseException",
        (2,),
        config("class E(BaseException): pass\ndef get_config(): raise E('x')"),
    ),
    (
        "config file: null byte in model.weights",
        (3,),
        config(
            "from configs import transfer\ndef get_config():\n"
            "  c = transfer.get_config(); c.data.source = 'synthetic'\n"
            "  c.model.weights = 'a\\0b'; return c"
        ),
    ),
    (
        "environment: JOB_PARENT=abc",
        (0,),
        plain("--mode=config", *SMOKE),
        {"env": {"JOB_PARENT": "abc"}},
    ),
    (
        "environment: JOB_REQUIRE_GPUS of 5,000 digits",
        (2,),
        plain("--mode=config", *SMOKE),
        {"env": {"JOB_REQUIRE_GPUS": "1" * 5000}},
    ),
    (
        "environment: TF_CONFIG garbage",
        (0,),
        plain(*SMOKE, "--workdir=ROOT/new"),
        {"env": {"TF_CONFIG": "{x"}},
    ),
    *(
        (
            f"streams, good run: {name}",
            (0,),
            plain(*SMOKE, "--workdir=ROOT/new"),
            {"before": before},
        )
        for name, before in (
            ("stderr closed", close_streams(2)),
            ("stdout closed", close_streams(1)),
            ("all closed", close_streams(0, 1, 2)),
            ("stdout full", open_full(1)),
            ("reader of stdout left", broken_pipe(1)),
            ("reader of both left", broken_pipe(1, 2)),
        )
    ),
    (
        "ulimit -v 1500000",
        (2,),
        plain(*SMOKE, "--workdir=ROOT/new"),
        {"before": limit_memory},
    ),
    *(
        (f"compare: {name}", codes, compare_of(change, run))
        for name, run, codes, change in (
            ("run named lr$_$x", "lr$_$x", (0,), lambda p: None),
            ("run named a$\\frac$b", "a$\\frac$b", (0,), lambda p: None),
            ("run named a|b", "a|b", (0,), lambda p: None),
            (
                "images_per_second 0",
                *("b", (0,)),
                lambda p: p.change("b/metrics.jsonl", images_per_second=0),
            ),
            (
                "a test line without accuracy",
                *("b", (0,)),
                lambda p: p.change("b/metrics.jsonl", accuracy="gone"),
            ),
            (
                "accuracy a string",
                *("b", (0,)),
                lambda p: p.change("b/result.json", test_accuracy="99 %"),
            ),
            (
                "train_tflop null",
                *("b", (0,)),
                lambda p: p.change("b/result.json", train_tflop=None),
            ),
            ("result [1]", "b", (0,), lambda p: p.put("b/result.json", "[1]")),
            ("config {}", "b", (0, 2), lambda p: p.put("b/config.json", "{}")),
        )
    ),
    *(
        (
            f"ablation.json: {name}",
            (0, 2),
            mode(
                "report", change=lambda p, t=text: p.put("run/ablation.json", t)
            ),
        )
        for name, text in (
            ("{}", "{}"),
            ("variants ints", '{"variants": [1], "seeds": [0]}'),
        )
    ),
    (
        "weights: null dataspace",
        (3,),
        train_of(
            null_weights,
            *("--config=configs/transfer.py", "--config.data.source=synthetic"),
            "--config.model.weights=ROOT/w.h5",
        ),
    ),
    *(
        (
            f"keras_model: {kind}",
            (3,),
            plain(
                *("--mode=diagnose", "--keras_model=ROOT/a.keras"),
                *("--config=configs/smoke.py",),
                change=lambda p, kind=kind: write_keras(p, kind),
            ),
        )
        for kind in ("unbuilt", "deep", "dense", "class_name a list")
    ),
    *(
        (
            f"finished run: {name}",
            (0,),
            again_of(
                lambda p, values=values: p.change("run/result.json", **values)
            ),
            {"trained": True},
        )
        for name, values in (
            ("accuracy a string", {"test_accuracy": "99 %"}),
            ("accuracy null", {"test_accuracy": None}),
            ("planned_steps 5", {"planned_steps": 5}),
        )
    ),
    *(
        (f"fresh start: {name}", codes, train_of(change))
        for name, codes, change in (
            (
                "metrics with a step that is text",
                (0,),
                lambda p: p.put(
                    "run/metrics.jsonl", '{"step":"a","split":"x"}'
                ),
            ),
            (
                "metrics nested",
                (0,),
                lambda p: p.put("run/metrics.jsonl", DEEP),
            ),
            (
                "starts.json nested",
                (0,),
                lambda p: p.put(f"run/{_STARTS}", DEEP),
            ),
            (
                "result.json nested",
                (0,),
                lambda p: p.put("run/result.json", DEEP),
            ),
            ("events is a file", (3,), lambda p: p.put("run/events", "x")),
            (
                "events: the folder is a link",
                (3,),
                lambda p: (p.run / "events").symlink_to(p.root),
            ),
            (
                "augmentation.png is a folder",
                (0, 3),
                lambda p: p.folder("run/augmentation.png"),
            ),
            (
                "result.json is a folder",
                (3,),
                lambda p: p.folder("run/result.json"),
            ),
        )
    ),
    *(
        (f"flags: {flag}", (2,), plain(*SMOKE, "--workdir=ROOT/new", flag))
        for flag in (
            *("--grace_seconds=1e10", "--watchdog_seconds=1e300"),
            *("--upload_seconds=1e300", "--upload_seconds=nan"),
            *("--heartbeat_file=/dev/null", "--workdir=ROOT/bad\udcff"),
        )
    ),
    (
        "report: non-UTF-8 workdir",
        (2,),
        plain("--mode=report", "--workdir=ROOT/bad\udcff"),
    ),
]


def run_trial(
    name: str, codes: tuple, prepare: Callable, options: dict, root, trained
) -> str:
    place = Place(root, trained if options.get("trained") else None)
    args = prepare(place)

    def before():
        if options.get("nobody"):
            os.setuid(NOBODY)
        options.get("before", lambda: None)()

    began = time.monotonic()
    code, output = fork(args, environment=options.get("env", {}), before=before)
    lines = [line for line in output.splitlines() if line.strip()]
    good = (
        code in codes and "Traceback" not in output and "\x1b[31m" not in output
    )
    last = (lines or [""])[-1][:150].replace(str(root), "DIR")
    last = last.encode(errors="backslashreplace").decode()
    seconds = time.monotonic() - began
    word = "good" if good else "BAD"
    return f"{word} | {name} | {code} | {last} | {seconds:.0f} s"


def main(words: list[str]) -> None:
    signal.signal(signal.SIGALRM, on_alarm)
    sys.stdout = io.TextIOWrapper(
        os.fdopen(os.dup(1), "wb"), errors="backslashreplace"
    )
    startup.import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        top.chmod(0o755)
        trained = top / "trained"
        chosen = [
            trial
            for trial in TRIALS
            if not words or any(word in trial[0] for word in words)
        ]
        if any(trial[3:] and trial[3].get("trained") for trial in chosen):
            done = fork(
                (*SMOKE, f"--workdir={trained}"),
                environment={},
                before=lambda: None,
            )
            assert done[0] == 0, done[1]
        for number, (name, codes, prepare, *options) in enumerate(chosen):
            line = run_trial(
                *(name, codes, prepare, options[0] if options else {}),
                *(top / str(number), trained),
            )
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
