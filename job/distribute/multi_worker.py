"""MultiWorkerMirroredStrategy over the devices of several processes."""

import contextlib
import faulthandler
import signal
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf

from job import errors
from job.distribute.environment import Cluster

# Time limit for the registration of workers that have just been reachable.
_REGISTER_SECONDS = 60


def create_strategy(
    cluster: Cluster, *, gpus: int, cpus: int, all_reduce: str
) -> tf.distribute.Strategy:
    """Returns the strategy over all workers, once all of them have registered.

    Args:
      cluster: Addresses of the workers and the index of this one.
      gpus: Number of GPUs of this worker.
      cpus: Number of logical CPU devices of this worker, used without GPUs.
      all_reduce: Sum over GPUs: auto or nccl.

    Raises:
      ConfigError: `all_reduce` is hierarchical.
      DeviceError: TensorFlow cannot listen at this worker's address.
    """
    if all_reduce == "hierarchical":
        raise errors.ConfigError(
            "config.distribute.all_reduce is 'hierarchical'; it must be auto or"
            " nccl with config.distribute.strategy=multi_worker"
        )
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if all_reduce == "nccl" else kinds.AUTO
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        # The job's own names: the chief is worker 0, whatever TF_CONFIG says.
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    # Private, because MultiWorkerMirroredStrategy has no argument for the time
    # limit: its default is an hour, and all workers have just been reachable.
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
        with _deadline(2 * _REGISTER_SECONDS), _local_cpus(0 if gpus else cpus):
            return tf.distribute.MultiWorkerMirroredStrategy(
                resolver,
                tf.distribute.experimental.CommunicationOptions(
                    implementation=kind if gpus else kinds.RING
                ),
            )
    except tf.errors.UnknownError as error:
        # TensorFlow's server reports so an address in use or of another host.
        raise errors.DeviceError(
            f"worker {cluster.index} cannot listen at"
            f" {cluster.workers[cluster.index]}: {error.message}"
        ) from None


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Ends the process by SIGALRM, after a stack dump, once the time is over.

    TensorFlow of worker 0 waits without limit for a worker that has just died,
    and holds Python's lock, so no Python thread can end the process.
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
    """Makes the strategy of a worker without GPUs use `count` CPU devices.

    MultiWorkerMirroredStrategy uses one and has no argument for more, so a
    private method is replaced. Only tests use more than one.
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
