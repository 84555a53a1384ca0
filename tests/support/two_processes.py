"""Starts two processes on one workdir, many times.

    python -m tests.support.two_processes REPEATS DIR [gs://BUCKET/PATH]

Prints one line of JSON per trial. Each process runs the shipped --mode=train
with its claim of the workdir, its uploads and its checkpoints. Only the network
is replaced, by an array that counts the steps. Children are forked without
TensorFlow, so a trial takes half a second.
"""

import contextlib
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import types
import uuid

import numpy as np

from configs import smoke
from job import errors
from job.checkpoint import store
from job.config import resume, serialization
from job.modes import train
from job.output import results
from job.storage import files
from job.storage import workdir as workdirs
from job.supervision import exits, preemption, startup, watchdog

STEPS = 6
STEP_SECONDS = 0.03


def count_steps(config, workdir, stop, watchdog, **unused):
    """Writes the files of `train.train_and_evaluate` without a network."""
    fields, local = serialization.flatten(config), workdir.local
    made = store.CheckpointStore(workdir.checkpoints)
    found = made.restore_newest()
    step = found[0].step if found else 0
    if found and resume.differences(found[0].run["config"], fields):
        raise errors.ResumeError("the checkpoint is of another run")
    files.write_json(local / "config.json", serialization.to_json(config))
    (local / "result.json").unlink(missing_ok=True)
    while step < STEPS:
        time.sleep(random.uniform(0, 2 * STEP_SECONDS))
        stop.check()
        step += 1
        lines = [{"step": s, "split": "train"} for s in range(1, step + 1)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_atomically(local / "metrics.jsonl", text.encode())
        made.save(step, {"w": np.full(9, step, np.float32)}, {"config": fields})
        stop.note_saved(step)
    result = {
        "test_accuracy": 0.5,
        "test_accuracy_tta": 0.5,
        "train_steps": STEPS,
        "train_seconds": 1.0,
        "images_per_second": 1.0,
        "seed": fields["seed"],
        "config_hash": resume.fingerprint(fields),
        "config": {name: fields[name] for name in results.COMPARED},
    }
    files.write_json(local / "result.json", result)
    workdir.push_last()
    return result


def install() -> None:
    """Replaces the training with `count_steps`."""
    fake = types.ModuleType("job.train")
    fake.train_and_evaluate = count_steps
    workers = types.ModuleType("job.distribute.workers")
    workers.translate_lost_worker = lambda cluster: contextlib.nullcontext()
    sys.modules |= {"job.train": fake, "job.distribute.workers": workers}
    startup.import_tensorflow = lambda: None
    startup.translate_out_of_memory = lambda fields: contextlib.nullcontext()


def start(name: str, seed: int) -> tuple[int, int]:
    """Forks a job; returns its process ID and a pipe with its last line."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    code = 1
    try:
        random.seed(os.getpid())
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        stop = preemption.StopRequest()
        config = smoke.get_config().unlock()
        config.seed = seed
        try:
            with workdirs.open_workdir(name) as workdir:
                dog = watchdog.Watchdog(0.0)
                train.run(
                    *(config, workdir, stop, dog),
                    config_name="smoke",
                    upload_seconds=0.1,
                )
            code = 0
        except errors.JobError as error:
            code = exits.report_error(error, stop)
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(process: tuple[int, int]) -> tuple[int, str]:
    """Returns the exit code and the last line of a job."""
    child, reader = process
    with os.fdopen(reader) as stream:
        lines = stream.read().splitlines()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), (lines or [""])[-1]


def content(name: str) -> dict[str, bytes]:
    """Returns the files of a workdir, except the checkpoints."""
    with workdirs.open_workdir(name) as workdir:
        return {
            path.name: path.read_bytes()
            for path in workdir.local.iterdir()
            if path.is_file()
        }


def run_trial(name: str, *, same: bool, together: bool) -> dict:
    """Runs two jobs on a workdir and returns the outcome."""
    began = time.monotonic()
    seeds = (0, 0 if same else 1)
    first = start(name, seeds[0])
    if not together:
        time.sleep(random.uniform(1, STEPS) * STEP_SECONDS)
    second = start(name, seeds[1])
    ends = [end(first), end(second)]
    codes = [code for code, _ in ends]
    if 0 not in codes:
        raise AssertionError(ends)
    with workdirs.open_workdir(name) as workdir:
        made = store.CheckpointStore(workdir.checkpoints)
        header, tensors = made.restore_newest()
    found = content(name)
    winner = seeds[codes.index(0)]
    with tempfile.TemporaryDirectory() as folder:
        assert end(start(folder, winner))[0] == 0
        wanted = content(folder)
    return {
        "codes": codes,
        "lines": [line for _, line in ends if line],
        "owner": json.loads(found["config.json"])["seed"] == winner,
        "result": json.loads(found["result.json"])["seed"] == winner,
        "step": header.step,
        "weights": bool((tensors["w"] == STEPS).all()),
        "files": found == wanted,
        "seconds": round(time.monotonic() - began, 2),
    }


def is_good(trial: dict, *, same: bool) -> bool:
    """Returns whether one process owned the run and nothing was lost."""
    loser = {0, 75} if same else {4}
    others = sorted(trial["codes"])[1:] if 0 in trial["codes"] else []
    return (
        len(others) == 1
        and set(others) <= loser
        and trial["owner"]
        and trial["result"]
        and trial["step"] == STEPS
        and trial["weights"]
        and trial["files"]
    )


def main(repeats: int, folder: str, bucket: str = "") -> None:
    install()
    for place in filter(None, ("disk", bucket and "bucket")):
        for same in (True, False):
            for together in (True, False):
                for _ in range(repeats):
                    name = uuid.uuid4().hex
                    trial = run_trial(
                        f"{bucket}/{name}"
                        if place == "bucket"
                        else str(pathlib.Path(folder) / name),
                        same=same,
                        together=together,
                    )
                    case = {"place": place, "same": same, "together": together}
                    good = is_good(trial, same=same)
                    print(json.dumps({**case, **trial, "good": good}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
