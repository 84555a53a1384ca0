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

# Address space of a small run on a CPU, 1.4 GB after the first operation.
_ADDRESS_BYTES = 2 * 10**9


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras with the job's settings.

    Keras must not write ~/.keras/keras.json, nor read it, because the file may
    change the backend or the precision.

    Raises:
      OutOfMemoryError: The limit of the address space is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < _ADDRESS_BYTES:  # TensorFlow would crash without an error.
        raise errors.OutOfMemoryError(
            f"the address space is limited to {limit:,} bytes, but TensorFlow"
            f" needs {_ADDRESS_BYTES:,}. Fix: run `ulimit -v unlimited`"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _use_own_assembler()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")
    # Otherwise Keras would import pyplot, which takes half a second and writes
    # a list of fonts to the home directory.
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

    XLA prefers the first ptxas of PATH to that of the wheel
    nvidia-cuda-nvcc-cu12, and an older one may not support the GPU.
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
def translate_out_of_memory(
    fields: dict[str, Any] | None = None,
) -> Iterator[None]:
    """Translates a lack of device or host memory into OutOfMemoryError.

    Args:
      fields: Flattened config, whose relevant fields the message names. If
        None, the mode does not depend on them.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        what = errors.first_line(error)
        if os.strerror(errno.ENOSPC) in what:  # TensorFlow uses one exception.
            raise errors.StorageError(what) from None
        if fields is None:
            raise errors.OutOfMemoryError(
                f"out of memory ({what}). Fix: end other programs that use the"
                " device, or set CUDA_VISIBLE_DEVICES= to use the CPU"
            ) from None
        raise errors.OutOfMemoryError(
            f"out of memory ({what}). Fix: reduce"
            " --config.global_batch_size (now"
            f" {fields['global_batch_size']}),"
            " --config.evaluate.global_batch_size (now"
            f" {fields['evaluate.global_batch_size']}),"
            f" --config.model.width (now {fields['model.width']}) or"
            f" --config.model.input_size (now {fields['model.input_size']}), or"
            " use more replicas"
        ) from None
