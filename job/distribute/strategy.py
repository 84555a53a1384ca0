"""Devices of a run, as a `tf.distribute.Strategy`.

If requested devices are absent, the error names the cause.

    strategy = create_strategy(require_gpus=0)
    strategy.num_replicas_in_sync
"""

import contextlib
import os
import pathlib
import platform
import shutil

import tensorflow as tf
from absl import logging

from job import errors
from job.distribute import gpus as gpu_checks
from job.distribute import memory, multi_worker
from job.distribute.environment import Cluster

# Folder of the driver's libraries on GKE, which does not set LD_LIBRARY_PATH.
GKE_LIBRARIES = pathlib.Path("/usr/local/nvidia/lib64")


def create_strategy(
    *,
    logical_devices: int = 0,
    require_gpus: int = 0,
    all_reduce: str = "auto",
    cluster: Cluster | None = None,
    precision: str = "float32",
    deterministic: bool = False,
) -> tf.distribute.Strategy:
    """Returns a MirroredStrategy over all GPUs, or else over the CPU.

    With a cluster it is a MultiWorkerMirroredStrategy over the devices of all
    workers, and the function returns after all workers have started. The call
    must precede all operations of TensorFlow.

    GPU memory grows on demand, and TF32 is off.

    Args:
      logical_devices: Number of replicas that the CPU is split into. If 0, the
        CPU is not split.
      require_gpus: Minimum number of GPUs. If 0, a CPU is sufficient.
      all_reduce: Algorithm of the sum over GPUs: auto, nccl or hierarchical.
      cluster: Workers of the run. If None, this process alone.
      precision: Precision of the forward and backward pass, for a warning.
      deterministic: Whether to use GPU kernels that repeat bit by bit. On a CPU
        all kernels do.

    Raises:
      DeviceError: GPUs are missing, the driver is too old, or TensorFlow has
        started before the CPU was split.
      ConfigError: `all_reduce` is hierarchical with an odd number of GPUs or
        several nodes.
    """
    configure_gpus()
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        memory.keep_freed_memory()
        if (
            gpu_checks.DRIVER.exists()
            and not logical_devices
            and not require_gpus
        ):
            logging.warning(
                "Training on the CPU although an NVIDIA driver is loaded. %s",
                _no_gpus_because(),
            )
    if len(gpus) < require_gpus:
        raise errors.DeviceError(_missing_gpus(require_gpus, len(gpus)))
    gpu_checks.check(gpus, precision=precision)
    if cluster:
        return multi_worker.create_strategy(
            cluster,
            gpus=len(gpus),
            cpus=split_cpu(logical_devices or 1),
            all_reduce=all_reduce,
        )
    # With TF_CONFIG, MirroredStrategy would connect to other workers.
    os.environ.pop("TF_CONFIG", None)
    if logical_devices:
        devices = [f"CPU:{i}" for i in range(split_cpu(logical_devices))]
        return tf.distribute.MirroredStrategy(devices)
    if not gpus:
        return tf.distribute.MirroredStrategy(["CPU:0"])
    if all_reduce == "hierarchical" and len(gpus) % 2 and len(gpus) > 1:
        # TensorFlow divides the devices into two halves and omits an odd one.
        raise errors.ConfigError(
            "--config.distribute.all_reduce=hierarchical: the algorithm needs"
            f" an even number of GPUs, not {len(gpus)}. Fix: set"
            " --config.distribute.all_reduce=auto"
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


def configure_gpus() -> None:
    """Configures GPUs for float32 and for memory that grows on demand."""
    # By default recent GPUs compute float32 as TF32, with 10 bits of mantissa.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        # The setting of a GPU in use cannot change.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def split_cpu(count: int) -> int:
    """Creates logical CPU devices, once per process, and returns their number.

    Args:
      count: Number of logical devices.

    Raises:
      DeviceError: TensorFlow has already started with fewer devices.
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
                f"--config.distribute.logical_devices={count}: TensorFlow"
                f" started with {have}. Fix: create the strategy first"
            ) from None
    return count


def describe_devices() -> str:
    """Returns the number and name of the GPUs, or else of the CPU cores."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def _missing_gpus(wanted: int, found: int) -> str:
    return (
        f"--config.distribute.require_gpus={wanted}: TensorFlow found {found}."
        f" {_no_gpus_because()}"
    )


def _no_gpus_because() -> str:
    """Returns the likely cause of missing GPUs, and the fix."""
    if not gpu_checks.DRIVER.exists():
        return (
            "No NVIDIA driver is loaded. Fix: install it on the host. For a"
            " container, install the NVIDIA container toolkit too, and start it"
            " with --gpus all"
        )
    if not tf.test.is_built_with_cuda():
        return (
            "This TensorFlow is built for CPUs. Fix: install"
            " requirements/gpu.txt, or build the image's gpu target"
        )
    searched = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if GKE_LIBRARIES.is_dir() and str(GKE_LIBRARIES) not in searched:
        return (
            f"LD_LIBRARY_PATH lacks {GKE_LIBRARIES}, which has the driver's"
            " libraries. Fix: add it, as the image's gpu target does"
        )
    if not shutil.which("nvidia-smi"):
        return (
            "The container lacks the driver's tools. Fix: start it with --gpus"
            " all and check the NVIDIA container toolkit"
        )
    return (
        "Fix: check nvidia-smi, CUDA_VISIBLE_DEVICES and, with"
        " TF_CPP_MIN_LOG_LEVEL=0, TensorFlow's log"
    )
