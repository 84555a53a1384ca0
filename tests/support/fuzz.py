"""Mutates every file that a mode reads, in many ways, and reads the result.

    python -m tests.support.fuzz SEED MUTATIONS

Prints one line of JSON per file, with the number of mutations and of each
outcome. "0" and "note" are exit code 0, without and with a note about the
damage. Another number is the exit code of an error with one line. "traceback"
and "hang" must be absent. Trials without file permissions run in a forked
process, as another user if this one is root. All others run in this process.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

import h5py
import numpy as np
from PIL import Image

from configs import smoke
from job import errors
from job.checkpoint import store
from job.config import resume, run_config, serialization
from job.data import image_file, sources
from job.model import weights
from job.model.spec import kernel_shapes
from job.modes import report, train
from job.output import ablation, results
from job.report import run as run_lib
from job.storage import files, reader
from job.storage import workdir as workdirs
from job.supervision import restarts
from tests.support.finished_run import write_run

# A longer trial counts as a hang.
HANG_SECONDS = 20.0
NOBODY = 65534
EXIT_CODES = (2, 3, 4, 74)


@dataclasses.dataclass(frozen=True)
class Target:
    """A file and its reader.

    Attributes:
      name: Name of the file, for the table.
      path: The file.
      read: Function that reads it as a mode does and returns any note.
      share: Fraction of the mutations; slow readers get fewer.
      is_special: Whether to also replace it with FIFOs, folders and so on.
    """

    name: str
    path: pathlib.Path
    read: Callable[[], str | None]
    share: float = 1.0
    is_special: bool = True


# Values that replace another one in JSON.
HOSTILE = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**70, -(10**400), 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "99 %", "\ud800", "\0", "../../x"),
    *("<script>", "$\\frac$", "a|b\n", "\x1b[31m", "é" * 300, "1" * 5000),
    *([], {}, [[]], {"a": 1}, [None], ["x"], [1, "x"], {"__class__": 1}),
    *({"a.b": 1}, list(range(50))),
]


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Changes a value, a name or the nesting in JSON or in a line of JSON."""
    lines = content.splitlines()
    is_lines = len(lines) > 1 and lines[0].endswith(b"}")
    place = rng.randrange(len(lines)) if is_lines else 0
    root = [json.loads(lines[place] if is_lines else content)]
    spots = list(_spots(root))
    parent, key = rng.choice(spots)
    action = rng.randrange(8)
    if action == 0 and isinstance(parent, dict):
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "a.b", "__class__", "\ud800", "x" * 999])] = 1
    elif action == 2:
        parent[key] = [parent[key]]
    else:
        parent[key] = rng.choice(HOSTILE)
    text = json.dumps(root[0])
    if action == 3:
        depth = rng.choice([20, 900, 100_000])
        text = text.replace(":", ":" + "[" * depth, 1)
    changed = text.encode("utf-8", "surrogatepass")
    if not is_lines:
        return changed
    lines[place] = changed
    return b"\n".join(lines) + b"\n"


def _spots(value) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _spots(inner)


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flips bits, truncates the data, or deletes, zeroes or inserts bytes."""
    data = bytearray(content)
    action = rng.randrange(8)
    place = rng.randrange(len(data))
    if action < 3:
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif action == 3:
        del data[place:]
    elif action == 4:
        del data[place : place + rng.randrange(1, 64)]
    elif action == 5:
        data[place : place + 64] = bytes(min(64, len(data) - place))
    elif action == 6:
        data[place:place] = rng.randbytes(rng.randrange(1, 64))
    else:
        # Other mutations seldom hit a zip directory or a header.
        ends = [*range(min(99, len(data))), *range(-min(99, len(data)), 0)]
        data[rng.choice(ends)] ^= 1 << rng.randrange(8)
    return bytes(data)


def change_arrays(content: bytes, rng: random.Random) -> bytes:
    """Changes the type or the shape of an array of an .npz file."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = rng.choice(sorted(arrays))
    value = arrays[name]
    kind = rng.choice("?bhlfdDSUM")
    changes = [
        lambda: np.zeros(value.shape, f"{kind}8" if kind in "SU" else "f4"),
        lambda: value.reshape(-1)[:1].reshape(()),
        lambda: value[:0],
        lambda: value[None],
        lambda: value.reshape(-1),
        lambda: np.full(value.shape, rng.choice([-1, 99, 2**40, 1e308])),
        lambda: np.full(value.shape, np.nan),
        lambda: np.array([str(x) for x in value.reshape(-1)[:50]]),
        lambda: np.array(["\ud800"] * len(value)),
    ]
    action = rng.randrange(len(changes) + 1)
    if action == len(changes):
        del arrays[name]
    else:
        arrays[name] = changes[action]()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_sparse(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


SPECIAL: dict[str, Callable[[pathlib.Path], None]] = {
    "fifo": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to("/nowhere/at/all"),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "tty": lambda path: path.symlink_to("/dev/tty"),
    "socket": lambda path: os.mknod(path, 0o140600),
    "sparse": write_sparse,
    "empty": lambda path: path.touch(),
    "absent": lambda path: None,
}


class HangError(BaseException):
    """Timeout of a trial. No handler of the job catches it."""


def on_alarm(number, frame) -> None:
    raise HangError


def outcome_of(read: Callable[[], str | None]) -> tuple[str, str]:
    """Returns the outcome of a trial, and its error if the outcome is wrong."""
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        return ("note" if read() else "0"), ""
    except errors.JobError as error:
        known = error.exit_code in EXIT_CODES
        return str(error.exit_code), "" if known else str(error)
    except HangError:
        return "hang", traceback.format_exc()
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fuzz(target: Target, seed: int, mutations: int) -> dict:
    """Returns the outcomes of a target, and the first failures."""
    rng = random.Random(f"{seed} {target.name}")
    content = target.path.read_bytes()
    outcomes: collections.Counter = collections.Counter()
    failures, slowest = [], 0.0
    intact = outcome_of(target.read)
    # The archive is too small for a data set.
    if intact[0] != "0" and target.path.suffix != ".gz":
        failures.append(f"intact: {intact}")

    def run(what: str) -> None:
        nonlocal slowest
        began = time.monotonic()
        outcome, wrong = outcome_of(target.read)
        slowest = max(slowest, time.monotonic() - began)
        outcomes[outcome] += 1
        if wrong:
            failures.append(f"{what}: {wrong[-1500:]}")

    changes = [change_bytes]
    if target.path.suffix in (".json", ".jsonl"):
        changes = [change_bytes, change_json, change_json]
    elif target.path.suffix == ".npz":
        changes = [change_bytes, change_arrays]
    for number in range(max(1, round(mutations * target.share))):
        change = rng.choice(changes)
        target.path.write_bytes(change(content, rng))
        run(f"mutation {number} ({change.__name__})")
    for name, make in SPECIAL.items() if target.is_special else ():
        remove(target.path)
        make(target.path)
        run(name)
    remove(target.path)
    target.path.write_bytes(content)
    for what, outcome, wrong in (
        without_access(target) if target.is_special else ()
    ):
        outcomes[outcome] += 1
        if wrong:
            failures.append(f"{what}: {wrong[-1500:]}")
    return {
        "file": target.name,
        "mutations": sum(outcomes.values()),
        "outcomes": dict(sorted(outcomes.items())),
        "slowest": round(slowest, 2),
        "failures": failures[:3],
    }


def without_access(target: Target) -> list[tuple[str, str, str]]:
    """Reads a file without permissions and one in such a folder, in a child."""
    reader, writer = os.pipe()
    modes = {path: path.stat().st_mode for path in (target.path, ROOT_OF[0])}
    child = os.fork()
    if not child:
        found = []
        for path in modes:
            path.chmod(0)
            if os.getuid() == 0:
                os.seteuid(NOBODY)
            found.append((f"closed {path.name}", *outcome_of(target.read)))
            if os.getuid() == 0:
                os.seteuid(0)
            path.chmod(modes[path])
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        found = json.loads(stream.read() or "[]")
    os.waitpid(child, 0)
    return found


# The folder above all files, which `main` adds.
ROOT_OF: list[pathlib.Path] = []


def make_targets(root: pathlib.Path) -> list[Target]:
    """Writes every file that a mode reads; returns the files and readers."""
    run = root / "run"
    run.mkdir()
    write_run(run)
    config = smoke.get_config().unlock()
    fields = serialization.flatten(config)
    files.write_json(run / "config.json", serialization.to_json(config))
    result = json.loads((run / "result.json").read_text())
    result |= {
        "config_hash": resume.fingerprint(fields),
        "config": {name: fields[name] for name in results.COMPARED},
        "seed": 0,
        "planned_steps": [20, 40],
        "train_tflop": 1.5,
    }
    files.write_json(run / "result.json", result)
    starts = [{"step": 5, "end": "killed", "time": "2026-01-01T00:00:00"}]
    files.write_json(run / "starts.json", starts)
    finding = {"check": "at_chance", "title": "t", "evidence": "e"}
    files.write_json(run / "diagnose.json", {"findings": [finding]})
    files.write_json(run / "failure.json", {"exit_code": 5, "command": "x"})
    plan = root / "plan"
    shutil.copytree(run, plan / "base" / "seed-0")
    record = {"variants": ["base"], "seeds": [0], "cumulative": ["base"]}
    files.write_json(plan / "ablation.json", record)

    def read() -> str:
        return "".join(run_lib.read(workdirs.Workdir(run)).notes)

    def page() -> None:
        report.run([str(run)])

    def finished() -> None:
        if found := results.finished(workdirs.Workdir(run), fields):
            with workdirs.open_workdir(str(run)) as workdir:
                train.summarize(found, workdir)

    def counted() -> None:
        with restarts.counted(run, 5):
            pass

    def compare() -> str:
        return ablation.inspect(plan).note

    def restore() -> None:
        store.CheckpointStore(run / "checkpoints").restore_newest(
            set_aside=False
        )

    checkpoint = next((run / "checkpoints").glob("*.safetensors"))
    names = ("result.json", "metrics.jsonl", "predictions.npz")
    names += ("augmentation.png", "diagnose.json", "failure.json")
    return [
        Target("config.json", run / "config.json", lambda: load(run)),
        *(Target(f"{name}, report", run / name, read) for name in names),
        *(
            Target(f"{name}, page", run / name, page, 0.03, is_special=False)
            for name in ("config.json", *names[:3], "diagnose.json")
        ),
        Target("result.json, train", run / "result.json", finished),
        Target("checkpoint, report", checkpoint, read, 0.5),
        Target("checkpoint", checkpoint, restore),
        Target("starts.json", run / "starts.json", counted),
        Target("ablation.json", plan / "ablation.json", compare),
        *_make_inputs(root),
    ]


def load(run: pathlib.Path) -> None:
    run_config.load(workdirs.Workdir(run))


def _make_inputs(root: pathlib.Path) -> Iterator[Target]:
    """Yields the files that a user names."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        path = root / f"image.{suffix}"
        Image.fromarray(pixels).save(path)
        yield Target(
            f"--input, .{suffix}", path, lambda path=path: decode(path)
        )
    path = root / "weights.h5"
    with h5py.File(path, "w") as file:
        for layer, shape in kernel_shapes().items():
            for kind, wanted in (("W", shape), ("b", shape[-1:])):
                file.create_dataset(
                    f"{layer}/{layer}_{kind}_1:0",
                    data=np.zeros(wanted, np.float32),
                    compression="gzip",
                )
    yield Target(
        "model.weights, .h5",
        path,
        lambda: weights.load(str(path)) and None,
        0.3,
    )
    archive = root / "own.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            info = tarfile.TarInfo(name)
            info.size = 999
            tar.addfile(info, io.BytesIO(rng.bytes(999)))

    def unpack() -> None:
        digest = "0" * 64
        with contextlib.suppress(errors.DataError):
            content = reader.read_bytes(archive, max_bytes=2**20) or b""
            digest = hashlib.sha256(content).hexdigest()
        sources.load("binary", str(archive), archive_sha256=digest)

    yield Target("data.dir, .tar.gz", archive, unpack)
    # TensorFlow's import takes seconds; no other target needs it.
    import keras

    from job.diagnose import keras_file

    model = root / "model.keras"
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(model)

    def read_model() -> None:
        keras_file.load(model)

    yield Target("--keras_model, .keras", model, read_model, 0.2)


def decode(path: pathlib.Path) -> str:
    for file in image_file.find([str(path)]):
        image_file.decode(file.read())
    return ""


def main(seed: int, mutations: int) -> None:
    signal.signal(signal.SIGALRM, on_alarm)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        root.chmod(0o755)
        ROOT_OF.append(root)
        for target in make_targets(root):
            print(json.dumps(fuzz(target, seed, mutations)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
