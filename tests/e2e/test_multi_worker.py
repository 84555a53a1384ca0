"""Tests that several worker processes on loopback train like a single one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from configs import smoke
from job.checkpoint import store
from job.storage.workdir import Workdir
from tests.support.jobs import ROOT, run_job

pytestmark = pytest.mark.timeout(900)

# As in tests/unit/training/test_step.py, the learning rate is so low that
# rounding differences do not grow.
SYNCED = {
    "distribute.sync_batch_norm": True,
    "global_batch_size": 16,
    "evaluate.global_batch_size": 40,
    "model.pooling": "avg",
    "optimizer.schedule": "constant",
    "optimizer.peak_learning_rate": 1e-4,
    "optimizer.warmup_epochs": 0.0,
    "steps": 20,
    "steps_per_loop": 1,
    # A line resets the window sums. Lines and checkpoints share only step 20.
    "log_every_steps": 7,
    "checkpoint.every_steps": 5,
}
FLAGS = (
    "--config=configs/smoke.py",
    "--config.distribute.strategy=multi_worker",
    *(f"--config.{name}={value}" for name, value in SYNCED.items()),
)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(ports, index):
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": workers}, "task": task}
    return {
        **os.environ,
        "TF_CONFIG": json.dumps(config),
        "JOB_WORKER_WAIT_SECONDS": "120",
    }


def start(workdirs, *flags, faults=("none", "none"), last=()):
    """Starts one worker per workdir.

    Args:
      workdirs: Workdirs of the workers. Only the chief writes to its own.
      *flags: Further flags of all workers.
      faults: Faults of the workers during training; see `faulty_job`.
      last: Further flags of the last worker.
    """
    ports = free_ports(len(workdirs))
    workers = []
    for index, (workdir, fault) in enumerate(
        zip(workdirs, faults, strict=True)
    ):
        entry = ["job.main"] if fault == "none" else _faulty(fault)
        own = last if index == len(workdirs) - 1 else ()
        workers.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", *entry, *FLAGS, *flags, *own),
                    f"--workdir={workdir}",
                ],
                cwd=ROOT,
                env=environment(ports, index),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return workers


def _faulty(fault):
    return ["tests.support.faulty_job", "train", fault]


def end(workers):
    """Returns each worker's exit code and output."""
    try:
        outputs = [one.communicate(timeout=200)[0] for one in workers]
    finally:
        for one in workers:
            one.kill()
    return [one.returncode for one in workers], outputs


def last_line(output):
    return output.strip().splitlines()[-1]


def newest(workdir):
    found = store.CheckpointStore(workdir / "checkpoints").restore_newest()
    del found[1]["metrics_log"]
    return found[0].step, found[1]


def accuracy(workdir):
    result = json.loads((workdir / "result.json").read_text())
    return result["test_accuracy"], result["test_loss"], result["replicas"]


@pytest.fixture(scope="module")
def one_worker():
    """Returns a function that trains 20 steps on one replica."""
    from job import train
    from job.supervision.preemption import StopRequest

    config = smoke.get_config()
    config.update_from_flattened_dict(SYNCED)

    def run(workdir):
        result = train.train_and_evaluate(
            config, Workdir(workdir), StopRequest()
        )
        return newest(workdir)[1], result

    return run


@pytest.fixture(scope="module")
def alone(one_worker, tmp_path_factory):
    return one_worker(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Returns the chief's workdir of an uninterrupted run on two workers."""
    folders = [tmp_path_factory.mktemp(f"worker-{i}") for i in range(2)]
    codes, outputs = end(start(folders))
    assert codes == [0, 0], outputs
    assert not [*folders[1].iterdir()], "only the chief writes"
    assert "the chief has the result" in outputs[1]
    return folders[0]


def assert_alike(workdir, alone, replicas):
    tensors, result = alone
    step, others = newest(workdir)
    assert step == 20
    assert others.keys() == tensors.keys()
    for name, value in tensors.items():
        # The momentum starts at 0, so a wrong sum would change it a lot.
        distance = np.linalg.norm(value - others[name])
        assert distance < 0.1 * max(np.linalg.norm(value), 1e-8), name
    share, loss, count = accuracy(workdir)
    # Each of the 200 images counts once. A borderline image may differ.
    assert share == pytest.approx(result["test_accuracy"], abs=0.005)
    assert loss == pytest.approx(result["test_loss"], rel=1e-3)
    assert count == replicas


@pytest.mark.faults
def test_2_workers_train_as_1_does(two_workers, alone):
    assert_alike(two_workers, alone, 2)


@pytest.mark.faults
def test_2_workers_of_2_devices_train_as_1_does(tmp_path, alone):
    folders = [tmp_path / "0", tmp_path / "1"]
    codes, outputs = end(
        start(folders, "--config.distribute.logical_devices=2")
    )
    assert codes == [0, 0], outputs
    assert_alike(folders[0], alone, 4)


@pytest.mark.faults
def test_stopped_and_killed_workers_resume_together(tmp_path, two_workers):
    folders = [tmp_path / "0", tmp_path / "1"]
    # After one worker gets SIGTERM, all save the same step and exit.
    codes, outputs = end(start(folders, faults=("none", "SIGTERM")))
    assert codes == [75, 75], outputs
    saved, _ = newest(folders[0])
    assert saved >= 7
    for output, who in zip(
        outputs, ("another worker's signal", "SIGTERM"), strict=True
    ):
        assert last_line(output) == (
            f"preempted: stopped by {who}: all is saved up to step {saved};"
            " the same command resumes"
        )
    # After one worker is killed, the other exits and names the lost one.
    codes, outputs = end(start(folders, faults=("none", "SIGKILL")))
    assert codes == [76, -9], outputs
    assert last_line(outputs[0]).startswith("peer lost error: worker 1 (127")
    assert newest(folders[0])[0] >= saved
    # After a restart, they finish like an uninterrupted run.
    codes, outputs = end(start(folders))
    assert codes == [0, 0], outputs
    _, tensors = newest(folders[0])
    for name, value in newest(two_workers)[1].items():
        assert tensors[name].tobytes() == value.tobytes(), name
    assert not folders[1].exists()


@pytest.mark.faults
def test_a_worker_without_its_peers_ends_with_76(tmp_path):
    ports = free_ports(2)
    ended = run_job(
        *FLAGS,
        f"--workdir={tmp_path}",
        env={**environment(ports, 0), "JOB_WORKER_WAIT_SECONDS": "2"},
    )
    assert ended.returncode == 76, ended.stderr
    assert last_line(ended.stderr).startswith(
        f"peer lost error: worker 1 (127.0.0.1:{ports[1]}) did not start within"
        " 2 s"
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.faults
def test_a_worker_with_another_length_of_the_run_ends_with_2(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    codes, outputs = end(start(folders, last=["--config.steps=24"]))
    assert codes == [76, 2], outputs
    assert "differs from the chief's (steps: 20 -> 24)" in outputs[1]
    assert not (folders[0] / "checkpoints").exists()


def test_a_broken_environment_ends_it_before_tensorflow(tmp_path):
    ended = run_job(
        *FLAGS,
        f"--workdir={tmp_path}",
        env={**os.environ, "TF_CONFIG": "{"},
        timeout=20,
    )
    assert ended.returncode == 2
    [line] = ended.stderr.strip().splitlines()
    assert "TF_CONFIG is not valid JSON" in line


@pytest.mark.faults
def test_a_gang_that_keeps_losing_a_worker_ends_with_4(tmp_path, monkeypatch):
    from job import errors
    from job.modes import train
    from job.storage import workdir as workdirs
    from job.supervision.preemption import StopRequest
    from job.supervision.watchdog import Watchdog

    [port] = free_ports(1)
    for name, value in (
        ("JOB_WORKERS", 2),
        ("JOB_COMPLETION_INDEX", 0),
        ("JOB_WORKER_HOSTS", "127.0.0.1,127.0.0.2"),
        ("JOB_WORKER_PORT", port),
        ("JOB_WORKER_WAIT_SECONDS", 1),
    ):
        monkeypatch.setenv(name, str(value))
    config = smoke.get_config()
    config.distribute.strategy = "multi_worker"
    codes = []
    # All attempts share a process. Kubernetes would start a pod per attempt.
    while not codes or codes[-1] == errors.PeerLostError.exit_code:
        with workdirs.open_workdir(str(tmp_path / "run")) as workdir:
            try:
                train.run(
                    config,
                    workdir,
                    StopRequest(),
                    Watchdog(0.0),
                    config_name="configs/smoke.py",
                    upload_seconds=60.0,
                )
            except errors.JobError as error:
                codes.append(error.exit_code)
                message = str(error)
    assert codes == [*[76] * 10, 4]
    assert "10 x lost a worker: worker 1" in message
