"""Checks of the GPUs and their driver before the first computation.

Without them a run on an unsuitable GPU ends with an unclear CUDA error, or is
slow without a warning. docs/performance.md has the table of GPUs and drivers.
Unknown GPUs and drivers are accepted.
"""

import ctypes
import pathlib
import re
from typing import Any

import tensorflow as tf
from absl import logging

from job import errors

# Exists if and only if the NVIDIA kernel driver is loaded.
DRIVER = pathlib.Path("/proc/driver/nvidia/version")

# The element-wise kernels of TensorFlow 2.21's wheel contain machine code for
# compute capabilities up to 8.9. For later GPUs the driver compiles their PTX
# 8.5, which is that of CUDA 12.5. A driver compiles no PTX newer than its own.
_NEWEST_MACHINE_CODE = (8, 9)
_CUDA_OF_PTX = (12, 5)
_DRIVER_OF_PTX = 555

_FIRST_WITH_BFLOAT16 = (8, 0)
# NVIDIA's name for 10.0 and newer is Blackwell.
_FIRST_UNTESTED = (10, 0)


def check(
    gpus: list[tf.config.PhysicalDevice], *, precision: str = "float32"
) -> None:
    """Checks that TensorFlow's kernels run on the GPUs.

    Args:
      gpus: Physical GPU devices.
      precision: Precision of the forward and backward pass.

    Raises:
      DeviceError: The driver is too old for a GPU.
    """
    seen = set()
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability")
        name = details.get("device_name", gpu.name)
        if capability and name not in seen:
            seen.add(name)
            _check_gpu(name, tuple(capability), precision)


def _check_gpu(name: str, capability: tuple[int, int], precision: str) -> None:
    described = f"{name} (compute capability {capability[0]}.{capability[1]})"
    if capability > _NEWEST_MACHINE_CODE and _is_too_old():
        raise errors.DeviceError(
            f"the NVIDIA driver {_release()} is too old for {described}, for"
            " which TensorFlow 2.21 needs CUDA 12.5. Fix: install driver"
            f" R{_DRIVER_OF_PTX} or newer on the host"
        )
    if capability >= _FIRST_UNTESTED:
        logging.warning(
            "Compiling kernels for %s at the first start, which takes minutes"
            " and failed with earlier versions. The wheel of TensorFlow 2.21"
            " has no machine code for this GPU. Fix: use NVIDIA's TensorFlow"
            " container if the run fails",
            described,
        )
    if precision == "bfloat16" and capability < _FIRST_WITH_BFLOAT16:
        logging.warning(
            "--config.precision=bfloat16: %s has no bfloat16 arithmetic and"
            " computes in float32, several times slower. Fix: set"
            " --config.precision=float16",
            described,
        )


def _is_too_old() -> bool:
    """Returns whether the driver is known not to compile PTX 8.5."""
    # By CUDA's forward compatibility the library may be newer than the driver.
    if version := _cuda_version():
        return version < _CUDA_OF_PTX
    release = _release()
    return bool(release) and int(release.partition(".")[0]) < _DRIVER_OF_PTX


def _release() -> str:
    """Returns the driver's release, such as 535.104.05, or an empty string."""
    try:
        text = DRIVER.read_text()
    except OSError:
        return ""
    found = re.search(r"\s(\d{3,}\.[\d.]+)\s", text)
    return found.group(1) if found else ""


def _cuda_version() -> tuple[int, int] | None:
    """Returns the CUDA version of the driver's library, or None."""
    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) or not version.value:
        return None
    return version.value // 1000, version.value % 1000 // 10
