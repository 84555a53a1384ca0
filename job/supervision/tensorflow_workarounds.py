"""Workarounds that call or replace private functions of TensorFlow.

TensorFlow has no public function for these purposes. The workarounds are
written for the versions in `VERSIONS`. With another version each of them raises
an error that names the supported versions.
"""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import tensorflow as tf

from job import errors

VERSIONS = ("2.21",)


def check_version(purpose: str, version: str = tf.__version__) -> None:
    """Checks that a workaround is written for this version of TensorFlow.

    Args:
      purpose: Purpose of the workaround for the message.
      version: Version of TensorFlow.

    Raises:
      ConfigError: The version is not in `VERSIONS`.
    """
    if not version.startswith(tuple(f"{known}." for known in VERSIONS)):
        raise errors.ConfigError(
            f"TensorFlow {version} is installed, but {purpose} relies on"
            f" private functions of TensorFlow {', '.join(VERSIONS)}. Fix:"
            " install the packages of requirements/, or adapt"
            " job/supervision/tensorflow_workarounds.py"
        )


@contextlib.contextmanager
def map_device_datasets(
    function: Callable[[tf.data.Dataset], tf.data.Dataset],
) -> Iterator[None]:
    """Applies a function to the data sets that tf.distribute creates.

    tf.distribute adds a data set per device that prefetches to it and that
    options do not affect.

    Args:
      function: Function from such a data set to its replacement.
    """
    check_version("the input pipeline")
    from tensorflow.python.data.ops import multi_device_iterator_ops

    create = multi_device_iterator_ops._create_device_dataset
    with mock.patch.object(
        multi_device_iterator_ops,
        create.__name__,
        lambda *args: function(create(*args)),
    ):
        yield


def limit_registration(num_workers: int, seconds: int) -> None:
    """Sets the time limit for the registration of all workers.

    MultiWorkerMirroredStrategy has no argument for it and waits for an hour.

    Args:
      num_workers: Number of workers.
      seconds: Time limit in seconds.
    """
    check_version("distribute.strategy=multi_worker")
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=seconds * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(
                name="worker", num_tasks=num_workers
            )
        ],
    )


@contextlib.contextmanager
def use_cpu_devices(count: int) -> Iterator[None]:
    """Makes MultiWorkerMirroredStrategy use several CPU devices per worker.

    By default it uses one. Only tests use more.

    Args:
      count: Number of CPU devices per worker.
    """
    if count < 2:
        yield
        return
    check_version("distribute.logical_devices of several workers")
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
