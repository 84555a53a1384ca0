"""Which devices the job runs on, as a `tf.distribute.Strategy`.

What is asked for is there, or the job ends and says what is missing.

    strategy = create_strategy(require_gpus=0)
    strategy.num_replicas_in_sync
"""

import contextlib
import faulthandler
import os
import shutil
import signal
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
from absl import logging

from job import errors
from job.distribute import memory
from job.distribute.environment import Cluster

# There, whoever may use it, where the kernel has the driver.
_DRIVER = "/proc/driver/nvidia/version"
# How long TensorFlow waits for workers that were there a moment ago.
_REGISTER_SECONDS = 60


def create_strategy(
    *,
    logical_devices: int = 0,
    require_gpus: int = 0,
    all_reduce: str = "auto",
    cluster: Cluster | None = None,
) -> tf.distribute.Strategy:
    """Returns a MirroredStrategy over all GPUs, else over the CPU.

    With a cluster it is a MultiWorkerMirroredStrategy over the devices of all
    workers, as many on each; it returns when all of them are there. Nothing of
    TensorFlow may have been computed before.

    Memory of a GPU is taken as it is needed, not all at the start, and float32
    is float32: TF32 is switched off.

    Args:
      logical_devices: split the CPU into that many replicas; 0: no split.
      require_gpus: fewest GPUs to run on; 0: a CPU will do.
      all_reduce: sum over GPUs by auto or nccl, or hierarchical copies.
      cluster: the workers; None: this process alone.

    Raises:
      DeviceError: fewer GPUs than required, or TensorFlow had started before
        the CPU could be split.
      ConfigError: hierarchical on an odd number of GPUs, or on several nodes.
    """
    # Else float32 would be TF32, with 10 bits of mantissa, on recent GPUs.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        memory.keep_freed_memory()
        if os.path.exists(_DRIVER) and not logical_devices and not require_gpus:
            logging.warning(
                "a CPU computes, although there is an NVIDIA driver: %s",
                _no_gpus_because(),
            )
    if len(gpus) < require_gpus:
        raise errors.DeviceError(_missing_gpus(require_gpus, len(gpus)))
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (
            RuntimeError
        ):  # The GPUs are in use already; they stay as they are.
            logging.info("memory growth of %s stays as it is", gpu.name)
    if cluster:
        return _create_multi_worker(
            cluster, len(gpus), split_cpu(logical_devices or 1), all_reduce
        )
    if logical_devices:
        devices = [f"CPU:{i}" for i in range(split_cpu(logical_devices))]
        return tf.distribute.MirroredStrategy(devices)
    if not gpus:
        return tf.distribute.MirroredStrategy(["CPU:0"])
    if all_reduce == "hierarchical" and len(gpus) % 2 and len(gpus) > 1:
        # TensorFlow sums two groups of half the devices, and drops the odd one.
        raise errors.ConfigError(
            f"config.distribute.all_reduce is 'hierarchical' on {len(gpus)}"
            " GPUs; it must be auto or nccl where their number is odd"
        )
    operations = {
        "auto": None,
        "nccl": tf.distribute.NcclAllReduce(),
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce(),
    }
    return tf.distribute.MirroredStrategy(
        [f"GPU:{i}" for i in range(len(gpus))],
        cross_device_ops=operations[all_reduce],
    )


def _create_multi_worker(
    cluster: Cluster, gpus: int, cpus: int, all_reduce: str
) -> tf.distribute.Strategy:
    """Returns the strategy over all workers, once they are there."""
    if all_reduce == "hierarchical":
        raise errors.ConfigError(
            "config.distribute.all_reduce is 'hierarchical'; it must be auto or"
            " nccl with config.distribute.strategy=multi_worker"
        )
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if all_reduce == "nccl" else kinds.AUTO
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        # Our own names: a chief is worker 0, whatever he is called outside.
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    # Private, as MultiWorkerMirroredStrategy has no argument for it either: the
    # others were there a moment ago, so it need not wait an hour for them.
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=_REGISTER_SECONDS * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(
                name="worker", num_tasks=len(cluster.workers)
            )
        ],
    )
    try:
        with _at_most(2 * _REGISTER_SECONDS), _local_cpus(0 if gpus else cpus):
            return tf.distribute.MultiWorkerMirroredStrategy(
                resolver,
                tf.distribute.experimental.CommunicationOptions(
                    implementation=kind if gpus else kinds.RING
                ),
            )
    except tf.errors.UnknownError as error:
        # What its server says of an address that is taken or not ours.
        raise errors.DeviceError(
            f"worker {cluster.index} cannot listen at"
            f" {cluster.workers[cluster.index]}: {error.message}"
        ) from None


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Has a signal end the process, after its stacks, if this takes longer.

    Worker 0's TensorFlow waits for one that has just died for as long as it
    likes, and holds Python's lock: no thread of ours can do anything about it.
    """
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.unregister(signal.SIGALRM)


@contextlib.contextmanager
def _local_cpus(count: int) -> Iterator[None]:
    """Has a worker without GPUs use `count` logical CPU devices.

    MultiWorkerMirroredStrategy takes one, and has no argument for more. This
    private method is all that knows; tests alone ask for more than one.
    """
    if count < 2:
        yield
        return
    from tensorflow.python.distribute import (
        collective_all_reduce_strategy as module,
    )

    def local_devices(
        self: object, resolver: object, worker_device: str
    ) -> tuple[tuple[str, ...], str]:
        del self, resolver
        names = (f"{worker_device}/device:CPU:{i}" for i in range(count))
        return tuple(names), "CPU"

    with mock.patch.object(
        module.CollectiveAllReduceExtended,
        "_initialize_local_devices",
        local_devices,
    ):
        yield


def split_cpu(count: int) -> int:
    """Makes `count` logical CPU devices, once a process; returns `count`.

    Raises:
      DeviceError: TensorFlow has started already with fewer.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:
        have = len(tf.config.list_logical_devices("CPU"))
        if have < count:
            raise errors.DeviceError(
                f"config.distribute.logical_devices={count}: TensorFlow runs"
                f" already with {have}; split the CPU first"
            ) from None
    return count


def _missing_gpus(wanted: int, found: int) -> str:
    return (
        f"config.distribute.require_gpus={wanted}, but TensorFlow sees {found}:"
        f" {_no_gpus_because()}"
    )


def _no_gpus_because() -> str:
    """Returns the likely cause, and what would do."""
    if not os.path.exists(_DRIVER):
        return (
            "there is no NVIDIA driver here; on the host, install it; in a"
            " container, install the NVIDIA container toolkit and start with"
            " --gpus all"
        )
    if not tf.test.is_built_with_cuda():
        return (
            "this TensorFlow is built for CPUs; install requirements/gpu.txt,"
            " or build the image's gpu target"
        )
    if not shutil.which("nvidia-smi"):
        return (
            "the driver's tools are not in this container; start it with"
            " --gpus all and check the NVIDIA container toolkit"
        )
    return (
        "see nvidia-smi, CUDA_VISIBLE_DEVICES and, with"
        " TF_CPP_MIN_LOG_LEVEL=0, TensorFlow's log"
    )
