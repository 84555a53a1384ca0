"""Tests of the devices of a run."""

import pytest
import tensorflow as tf

from job import build, errors
from job.distribute import gpus, multi_worker, strategy
from job.distribute.environment import Cluster
from job.supervision import tensorflow_workarounds


def install_driver(monkeypatch, tmp_path, is_there):
    """Fakes whether the NVIDIA kernel driver is loaded."""
    path = tmp_path / "version"
    if is_there:
        path.touch()
    monkeypatch.setattr(gpus, "DRIVER", path)


def test_logical_devices_are_replicas():
    made = strategy.create_strategy(logical_devices=2)
    assert made.num_replicas_in_sync == 2
    assert isinstance(made, tf.distribute.MirroredStrategy)


def test_cpu_is_used_if_no_gpu_is_required():
    assert strategy.create_strategy().num_replicas_in_sync == 1


def test_more_logical_devices_than_the_process_has_is_refused():
    tf.zeros([])  # This starts TensorFlow.
    with pytest.raises(errors.DeviceError, match=r"=3: .* started with 2"):
        strategy.create_strategy(logical_devices=3)


@pytest.mark.parametrize(
    ("driver", "cuda", "tools", "said"),
    [
        (False, False, False, "No NVIDIA driver.*--gpus all"),
        (True, False, True, r"built for CPUs.*requirements/gpu\.txt"),
        (True, True, False, "container toolkit"),
        (True, True, True, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_missing_gpu_names_what_is_missing(
    monkeypatch, tmp_path, driver, cuda, tools, said
):
    install_driver(monkeypatch, tmp_path, driver)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
    monkeypatch.setattr(
        strategy.shutil, "which", lambda name: "/x" if tools else None
    )
    with pytest.raises(errors.DeviceError, match=said):
        strategy.create_strategy(require_gpus=1)


def test_gpus_that_the_environment_requires_are_not_in_the_config(
    config, monkeypatch
):
    monkeypatch.setenv("JOB_REQUIRE_GPUS", "1")
    with pytest.raises(errors.DeviceError, match="require_gpus=1"):
        build.create_strategy(config)
    assert config.distribute.require_gpus == 0


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/usr/lib", "LD_LIBRARY_PATH lacks"),
        ("/usr/lib:{gke}", "container toolkit"),
    ],
)
def test_message_names_the_driver_of_gke(monkeypatch, tmp_path, path, said):
    monkeypatch.setattr(strategy, "GKE_LIBRARIES", tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", path.format(gke=tmp_path))
    install_driver(monkeypatch, tmp_path, True)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    monkeypatch.setattr(strategy.shutil, "which", lambda name: None)
    with pytest.raises(errors.DeviceError, match=said):
        strategy.create_strategy(require_gpus=1)


@pytest.mark.parametrize("driver", [False, True])
def test_a_fallback_to_the_cpu_gives_a_warning(
    monkeypatch, tmp_path, caplog, driver
):
    install_driver(monkeypatch, tmp_path, driver)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    strategy.create_strategy()
    assert ("requirements/gpu.txt" in caplog.text) == driver
    caplog.clear()
    strategy.create_strategy(logical_devices=2)  # This is permitted.
    assert not caplog.text


@pytest.mark.parametrize("deterministic", [False, True])
def test_determinism_sets_the_option_of_tensorflow(monkeypatch, deterministic):
    calls = []
    monkeypatch.setattr(
        tf.config.experimental, "enable_op_determinism", lambda: calls.append(1)
    )
    strategy.create_strategy(deterministic=deterministic)
    assert len(calls) == deterministic


@pytest.mark.parametrize(
    ("gpus_per_worker", "implementation"), [(2, "NCCL"), (0, "RING")]
)
def test_workers_sum_over_gpus_by_nccl(
    monkeypatch, gpus_per_worker, implementation
):
    given = []
    monkeypatch.setattr(
        tf.distribute,
        "MultiWorkerMirroredStrategy",
        lambda resolver, options: given.append(options),
    )
    monkeypatch.setattr(
        tensorflow_workarounds, "limit_registration", lambda *args: None
    )
    multi_worker.create_strategy(
        Cluster(("127.0.0.1:1", "127.0.0.1:2"), 0),
        gpus=gpus_per_worker,
        cpus=1,
        all_reduce="auto",
    )
    # With AUTO, TensorFlow sums over gRPC, even between GPUs.
    [options] = given
    assert options.implementation.name == implementation
