"""Tests of storage faults on the real job, end to end.

Each run ends with the same bytes of weights and the same metrics log as an
uninterrupted run. `test_kill_matrix` covers every point of a save.
"""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from job.checkpoint import store
from job.output import metrics
from job.storage import gcs
from tests.e2e.test_faults import (
    ARGS,
    assert_same_run,
    committed,
    wait_for_step,
)
from tests.e2e.test_faults import uninterrupted as uninterrupted
from tests.support.gcs_server import Fault
from tests.support.jobs import ROOT, job_command, run_job

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# Outage of the store in seconds. The design guarantees ten minutes.
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "10"))


@dataclasses.dataclass
class StrictProcess:
    """`gcs_server` in a separate process."""

    url: str

    def order(self, *ordered: Fault) -> None:
        """Replaces all faults of the server."""
        body = json.dumps([dataclasses.asdict(fault) for fault in ordered])
        request = urllib.request.Request(
            f"{self.url}/faults", body.encode(), method="POST"
        )
        urllib.request.urlopen(request).read()


@pytest.fixture
def strict(monkeypatch):
    command = [sys.executable, "-m", "tests.support.gcs_server", "bucket"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        url = server.stdout.readline().strip()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield StrictProcess(url)
        server.kill()


def start_job(workdir, *args, storage_fault=""):
    """Starts the job.

    Args:
      workdir: Workdir of the run.
      *args: Further flags.
      storage_fault: See `storage_calls.parse`. If "", none.
    """
    command = job_command(*ARGS, *args, f"--workdir={workdir}")
    if storage_fault:
        module = command.index("job.main")
        command[module : module + 1] = [
            "tests.support.faulty_job",
            "storage",
            storage_fault,
        ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_in(workdir) -> list[int]:
    """Returns the committed steps of a folder or a bucket."""
    if isinstance(workdir, pathlib.Path):
        return committed(workdir)
    made = store.CheckpointStore(gcs.Bucket(f"{workdir}/checkpoints"))
    return made.committed_steps()


def fetched(workdir, tmp_path) -> pathlib.Path:
    """Returns a folder with the files of a workdir, even if it is a bucket."""
    if isinstance(workdir, pathlib.Path):
        return workdir
    bucket = gcs.Bucket(workdir)
    folder = tmp_path / "fetched"
    for entry in bucket.find():
        path = folder / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.read(entry.name))
    return folder


def finish(workdir, tmp_path, whole):
    """Resumes a run to its end and compares it with an uninterrupted one."""
    done = run_job(*ARGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    folder = fetched(workdir, tmp_path)
    assert_same_run(folder, whole)
    return folder


@pytest.fixture(params=["disk", "bucket"])
def workdir(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "run"
    request.getfixturevalue("strict")
    return "gs://bucket/run"


# Calls of the thread that saves.
_CALLS = {
    "disk": ("fsync", "link", "unlink"),
    "bucket": ("GET", "POST", "DELETE"),
}


def test_killed_at_seeded_points_of_a_save_the_weights_are_byte_equal(
    workdir, tmp_path, uninterrupted
):
    """Kills one run at six points in succession, half of them by SIGTERM."""
    rng = np.random.default_rng(0)
    place = "disk" if isinstance(workdir, pathlib.Path) else "bucket"
    points = [
        f"{call}.{end}" for call in _CALLS[place] for end in ("begin", "end")
    ]
    newest = 0
    for i, point in enumerate(rng.permutation(points)):
        number = signal.SIGTERM if i % 2 else signal.SIGKILL
        when = int(rng.integers(2))
        process = start_job(
            workdir, storage_fault=f"{point}:{when}={number.name}"
        )
        output, _ = process.communicate(timeout=240)
        wanted = 75 if i % 2 else -signal.SIGKILL
        assert process.returncode == wanted, (point, output[-3000:])
        saved = max(steps_in(workdir), default=0)
        assert saved >= newest, point
        newest = saved
    assert newest >= 14
    folder = finish(workdir, tmp_path, uninterrupted[0])
    found, _ = store.CheckpointStore(folder / "checkpoints").restore_newest()
    # An attempt that was killed before its first commit is not counted.
    assert found.run["resumes"] >= 3
    assert len(found.run["starts"]) >= 4


def test_a_run_in_a_bucket_killed_twice_is_a_run_on_a_disk(
    fake_gcs, tmp_path, uninterrupted
):
    """Uses the real client over HTTP against fake-gcs-server."""
    whole, seconds = uninterrupted
    workdir = "gs://bucket/run"
    rng = np.random.default_rng(1)
    for _ in range(2):
        before = max(steps_in(workdir), default=0)
        process = start_job(workdir, "--upload_seconds=1")
        deadline = time.monotonic() + 10 * seconds + 60
        while max(steps_in(workdir), default=0) < before + 14:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = finish(workdir, tmp_path, whole)
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )
    print(*names, sep="\n")
    wanted = {"config.json", "metrics.jsonl", "result.json"}
    wanted |= {"report.html", "predictions.npz", "augmentation.png"}
    kept = {f"checkpoints/step-00000{n}.safetensors" for n in ("119", "120")}
    assert wanted | kept <= {*names}
    assert len([n for n in names if n.startswith("checkpoints/")]) == 2
    assert len([n for n in names if n.startswith("events/")]) == 1
    result = json.loads((folder / "result.json").read_text())
    other = json.loads((whole / "result.json").read_text())
    assert result["resumes"] == 2
    for name in ("test_accuracy", "test_loss", "config_hash"):
        assert result[name] == other[name]
    again = run_job(*ARGS, f"--workdir={workdir}")
    assert again.returncode == 0
    assert "nothing left to do" in again.stdout
    scores = run_job("--mode=evaluate", f"--workdir={workdir}")
    assert scores.returncode == 0, scores.stderr
    assert json.loads(scores.stdout)["accuracy"] == result["test_accuracy"]


@pytest.mark.parametrize("kind", ["503", "stall", "reset"])
def test_an_outage_of_the_bucket_stops_no_step(
    strict, tmp_path, uninterrupted, kind
):
    workdir = "gs://bucket/run"
    process = start_job(workdir, "--config.log_every_steps=1")
    wait_for_commit(workdir, process, 14)
    strict.order(Fault(".", kind, times=-1, seconds=3600.0))
    lines = []
    over = time.monotonic() + OUTAGE_SECONDS
    for line in process.stdout:
        lines.append(line)
        went_on = any("step 60/120" in line for line in lines)
        if "step 120/120" in line or (went_on and time.monotonic() > over):
            break
        # A client gives up after 120 s, so a later line means a blocked loop.
        assert time.monotonic() < over + 60, lines[-5:]
    assert process.poll() is None
    time.sleep(max(0.0, over - time.monotonic()))
    strict.order()
    rest, _ = process.communicate(timeout=240)
    # The client library retries silently, so look at the checkpoint.
    assert process.returncode == 0, rest
    folder = fetched(workdir, tmp_path)
    found, tensors = store.CheckpointStore(
        folder / "checkpoints"
    ).restore_newest()
    assert found.step == 120
    _, wanted = store.CheckpointStore(
        uninterrupted[0] / "checkpoints"
    ).restore_newest()
    for name in wanted:
        if name.startswith(("model/", "momentum/", "ema/")):
            assert tensors[name].tobytes() == wanted[name].tobytes()
    assert len(metrics.read(folder)) >= 120


def wait_for_commit(workdir, process, step):
    deadline = time.monotonic() + 120
    while max(steps_in(workdir), default=0) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_in_an_outage_ends_in_time(strict, tmp_path, uninterrupted):
    workdir = "gs://bucket/run"
    process = start_job(workdir, "--grace_seconds=15")
    wait_for_commit(workdir, process, 21)
    strict.order(Fault(".", "503", times=-1))
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - start
    assert process.returncode == 75, output
    assert seconds < 15
    strict.order()
    saved = max(steps_in(workdir))
    assert f"saved up to step {saved}" in output.splitlines()[-1]
    finish(workdir, tmp_path, uninterrupted[0])


def test_a_signal_saves_while_a_removal_hangs(strict, tmp_path, uninterrupted):
    workdir = "gs://bucket/run"
    strict.order(Fault("DELETE.*step-", "stall", times=-1, seconds=3600.0))
    process = start_job(workdir, "--grace_seconds=25")
    wait_for_commit(workdir, process, 21)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    # Otherwise the line would also name the uncommitted step.
    last = output.splitlines()[-1]
    saved = max(steps_in(workdir))
    assert last.endswith(
        f": all is saved up to step {saved}; the same command resumes"
    )
    strict.order()
    finish(workdir, tmp_path, uninterrupted[0])


def test_two_jobs_on_one_workdir_end_cleanly_and_spoil_nothing(
    workdir, tmp_path, uninterrupted
):
    processes = [start_job(workdir) for _ in range(2)]
    outputs = [p.communicate(timeout=240)[0] for p in processes]
    codes = sorted(p.returncode for p in processes)
    assert codes in ([0, 75], [0, 0]), outputs
    if codes == [0, 75]:
        loser = next(
            output
            for p, output in zip(processes, outputs, strict=True)
            if p.returncode == 75
        )
        assert "another process" in loser.splitlines()[-1]
    folder = finish(workdir, tmp_path, uninterrupted[0])
    assert not list(folder.rglob("*.damaged-*"))


def test_a_file_that_cannot_be_written_ends_it_and_spoils_nothing(
    tmp_path, uninterrupted
):
    """Limits the file size to 1 MiB, which has the effect of a full disk."""
    workdir = tmp_path / "run"
    process = start_job(workdir)
    wait_for_step(workdir, process, 14)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    before = max(committed(workdir))
    limited = run_job(
        *ARGS,
        f"--workdir={workdir}",
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (2**20, 2**20)
        ),
    )
    assert limited.returncode == 3, limited.stderr
    last = limited.stderr.strip().splitlines()[-1]
    assert last.startswith("storage error: the checkpoint of step")
    assert "File too large" in last
    assert max(committed(workdir)) == before
    finish(workdir, tmp_path, uninterrupted[0])


def test_damaged_checkpoints_are_set_aside_and_the_run_resumes(
    tmp_path, uninterrupted
):
    workdir = tmp_path / "run"
    process = start_job(workdir)
    wait_for_step(workdir, process, 28)
    process.send_signal(signal.SIGKILL)
    process.wait()
    older, newer = committed(workdir)[-2:]
    path = workdir / "checkpoints" / store.file_name(newer)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    # The checkpoint also contains the metrics log, so a resume restores it.
    (workdir / "metrics.jsonl").unlink()
    process = start_job(workdir)
    wait_for_step(workdir, process, newer + 7)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert f"Restored the checkpoint of step {older}" in output
    assert output.count("Found a damaged checkpoint") == 1
    finish(workdir, tmp_path, uninterrupted[0])
