"""MultiWorkerMirroredStrategy over the devices of several processes."""

import contextlib
import faulthandler
import signal
from collections.abc import Iterator

import tensorflow as tf

from job import errors
from job.distribute.environment import Cluster
from job.supervision import tensorflow_workarounds

# Time limit for the registration of reachable workers.
_REGISTER_SECONDS = 60


def create_strategy(
    cluster: Cluster, *, gpus: int, cpus: int, all_reduce: str
) -> tf.distribute.Strategy:
    """Returns the strategy over all workers after all of them have registered.

    Args:
      cluster: Addresses of the workers, and the index of this one.
      gpus: Number of GPUs of this worker.
      cpus: Number of logical CPU devices of this worker, used without GPUs.
      all_reduce: Algorithm of the sum over GPUs: auto or nccl, which are equal.

    Raises:
      ConfigError: `all_reduce` is hierarchical.
      DeviceError: TensorFlow cannot listen at this worker's address.
    """
    if all_reduce == "hierarchical":
        raise errors.ConfigError(
            "--config.distribute.all_reduce=hierarchical: the algorithm does"
            " not support several workers. Fix: set"
            " --config.distribute.all_reduce=auto"
        )
    kinds = tf.distribute.experimental.CommunicationImplementation
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        # In the job the chief is always worker 0, even if TF_CONFIG differs.
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    # All workers were reachable before, so a short limit suffices.
    tensorflow_workarounds.limit_registration(
        len(cluster.workers), _REGISTER_SECONDS
    )
    try:
        with (
            _deadline(2 * _REGISTER_SECONDS),
            tensorflow_workarounds.use_cpu_devices(0 if gpus else cpus),
        ):
            return tf.distribute.MultiWorkerMirroredStrategy(
                resolver,
                tf.distribute.experimental.CommunicationOptions(
                    # With AUTO, TensorFlow 2.21 sums over gRPC in host memory,
                    # even between GPUs of one node.
                    implementation=kinds.NCCL if gpus else kinds.RING
                ),
            )
    except tf.errors.UnknownError as error:
        # TensorFlow raises it if the address is in use or of another host.
        raise errors.DeviceError(
            f"worker {cluster.index} cannot listen on"
            f" {cluster.workers[cluster.index]} ({error.message}). Fix: choose"
            " a free port of this host"
        ) from None


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Ends the process by SIGALRM after a time limit and a stack dump.

    TensorFlow of worker 0 waits without limit for a worker that has just died.
    It holds Python's lock, so a Python thread cannot end the process.
    """
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.unregister(signal.SIGALRM)
