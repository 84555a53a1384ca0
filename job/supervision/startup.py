"""Import of TensorFlow, and translation of its out-of-memory errors."""

import contextlib
import errno
import importlib
import importlib.util
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

from job import errors

# Address space of a small run on a CPU: 1.4 GB after the first operation.
_ADDRESS_BYTES = 2 * 10**9


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras with the job's settings.

    Keras must not read ~/.keras/keras.json, which may change the backend or
    the precision, nor write one.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < _ADDRESS_BYTES:  # TensorFlow would crash silently.
        raise errors.OutOfMemoryError(
            f"the address space is limited to {limit:,} bytes, and TensorFlow"
            f" needs {_ADDRESS_BYTES:,}. Fix: ulimit -v unlimited"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _use_own_assembler()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")
    # Keras imports pyplot where it is installed: half a second, and a list of
    # fonts written into the home directory.
    pyplot = sys.modules.get("matplotlib")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        import tensorflow as tf

        importlib.import_module("keras")
    finally:
        del sys.modules["matplotlib"]
        if pyplot:
            sys.modules["matplotlib"] = pyplot
    tf.get_logger().setLevel("ERROR")


def _use_own_assembler() -> None:
    """Makes XLA use the ptxas that is installed with TensorFlow.

    XLA takes the first ptxas of PATH, and only without one that of the wheel
    nvidia-cuda-nvcc-cu12. Another CUDA toolkit's may not know the GPU.
    """
    flag = "--xla_gpu_cuda_data_dir"
    flags = os.environ.get("XLA_FLAGS", "")
    package = importlib.util.find_spec("nvidia")
    if flag in flags or package is None:
        return
    for folder in package.submodule_search_locations or ():
        toolkit = os.path.join(folder, "cuda_nvcc")
        if os.path.exists(os.path.join(toolkit, "bin", "ptxas")):
            os.environ["XLA_FLAGS"] = f"{flags} {flag}={toolkit}".strip()


@contextlib.contextmanager
def translate_out_of_memory(fields: dict[str, Any]) -> Iterator[None]:
    """Translates a lack of device or host memory into OutOfMemoryError.

    Args:
      fields: Flattened config; the message names the fields that matter.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        what = errors.first_line(error)
        if os.strerror(errno.ENOSPC) in what:  # TensorFlow has one error.
            raise errors.StorageError(what) from None
        raise errors.OutOfMemoryError(
            f"out of memory ({what}). Fix: a smaller"
            " --config.global_batch_size (now"
            f" {fields['global_batch_size']}),"
            " --config.evaluate.global_batch_size (now"
            f" {fields['evaluate.global_batch_size']}),"
            f" --config.model.width (now {fields['model.width']}) or"
            f" --config.model.input_size (now {fields['model.input_size']}), or"
            " more replicas"
        ) from None
