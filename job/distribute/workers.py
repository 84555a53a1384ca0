"""Agreement between the worker processes of a run.

A collective operation blocks all workers until each of them has entered it. The
workers must therefore make the same decisions. They agree on stop requests and
on the number of steps per call. The chief, which alone reads and writes
checkpoints, broadcasts the restored state.

    workers = Workers(strategy, cluster)
    workers.any(stop.requested)             # True on all if True on one
    workers.broadcast_int(number)           # the chief's number
    workers.run_on_chief(work)              # the chief's result or error

The default, `Workers()`, is a single worker without any communication.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from job import errors
from job.distribute.environment import Cluster

# Possible sizes of a message in int32 numbers. A longer one is split.
_SMALL = 1 << 10
_LARGE = 1 << 22

# Errors of TensorFlow for a worker that failed, hung or restarted.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


class Workers:
    """Communication of this worker with the other workers of a run.

    All workers must call the same methods in the same order.

    Attributes:
      count: Number of workers.
      is_chief: Whether this worker is the chief, worker 0.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        """Prepares the sum over workers without sending anything.

        Args:
          strategy: Strategy over the devices of all workers. If None, a single
            worker.
          cluster: Addresses of the workers. If None, a single worker.
        """
        self.count = len(cluster.workers) if cluster else 1
        self.is_chief = cluster.is_chief if cluster else True
        self._strategy = strategy

        @tf.function(autograph=False)
        def add(numbers: tf.Tensor) -> tf.Tensor:
            def replica_add() -> tf.Tensor:
                context = tf.distribute.get_replica_context()
                # Only the first device of each worker contributes.
                first = context.replica_id_in_sync_group % local == 0
                return context.all_reduce(
                    tf.distribute.ReduceOp.SUM,
                    tf.where(first, numbers, tf.zeros_like(numbers)),
                )

            assert strategy
            sums = strategy.run(replica_add)
            return strategy.experimental_local_results(sums)[0]

        self._add = add
        if strategy:
            local = strategy.num_replicas_in_sync // self.count

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any worker."""
        if self.count == 1:
            return flag
        return bool(self._sum(np.array([flag], np.int32))[0])

    def broadcast_int(self, number: int) -> int:
        """Returns the chief's number, 0 to 2^63 - 1."""
        if self.count == 1:
            return number
        sent = number if self.is_chief else 0
        return int(self._sum(np.array([sent], np.int64))[0])

    def broadcast_bytes(self, content: bytes) -> bytes:
        """Returns the chief's bytes on all workers.

        The bytes are summed with zeros as integers, which is exact.

        Args:
          content: Bytes to send. Only those of the chief are used.
        """
        if self.count == 1:
            return content
        size = self.broadcast_int(len(content))
        length = -(-size // 4)
        numbers = np.zeros(length, np.int32)
        if self.is_chief:
            numbers.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
        chunk = _SMALL if length <= _SMALL else _LARGE
        for start in range(0, length, chunk):
            part = numbers[start : start + chunk]
            filled = np.zeros(chunk, np.int32)
            filled[: len(part)] = part
            part[:] = self._sum(filled)[: len(part)]
        return numbers.view(np.uint8)[:size].tobytes()

    def broadcast_json(self, value: Any) -> Any:
        """Returns the chief's value of JSON types on all workers."""
        if self.count == 1:
            return value
        sent = json.dumps(value).encode() if self.is_chief else b""
        return json.loads(self.broadcast_bytes(sent))

    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns exact copies of the chief's arrays on all workers."""
        if self.count == 1:
            return arrays
        table = self.broadcast_json(
            {n: (a.dtype.str, a.shape) for n, a in arrays.items()}
        )
        parts = [np.ascontiguousarray(a).tobytes() for a in arrays.values()]
        content = self.broadcast_bytes(
            b"".join(parts) if self.is_chief else b""
        )
        received, start = {}, 0
        for name, (kind, shape) in table.items():
            dtype = np.dtype(kind)
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(content, dtype, count, start)
            received[name] = array.reshape(shape)
            start += array.nbytes
        return received

    def run_on_chief(self, work: Callable[[], Any]) -> Any:
        """Calls a function on the chief and returns its result on all workers.

        Args:
          work: Function without arguments that returns a JSON value.

        Raises:
          JobError: The error of the chief's call, raised on all workers.
        """
        if self.count == 1:
            return work()
        sent: dict[str, Any] = {}
        failed: errors.JobError | None = None
        if self.is_chief:
            try:
                sent = {"value": work()}
            except errors.JobError as error:
                failed = error
                kind = errors.kind_of(error).__name__
                sent = {"error": kind, "message": str(error)}
        sent = self.broadcast_json(sent)
        if failed:
            raise failed
        if "error" in sent:
            raise getattr(errors, sent["error"])(sent["message"])
        return sent["value"]

    def barrier(self) -> None:
        """Waits for all workers at the end of the process."""
        self.any(False)
        # A worker may return from the first sum and exit before its last
        # message has arrived. The second sum prevents this.
        with contextlib.suppress(*_LOST):
            self.any(False)

    def _sum(self, numbers: np.ndarray) -> np.ndarray:
        return self._add(tf.constant(numbers)).numpy()


@contextlib.contextmanager
def translate_lost_worker(cluster: Cluster | None) -> Iterator[None]:
    """Translates TensorFlow's errors for a lost worker into PeerLostError.

    Args:
      cluster: Addresses of the workers. If None, nothing is translated.
    """
    try:
        yield
    except _LOST as error:
        if not cluster or len(cluster.workers) == 1:
            raise
        raise errors.PeerLostError(
            _describe_loss(cluster, str(error))
        ) from None


def _describe_loss(cluster: Cluster, reported: str) -> str:
    """Returns the message on the lost workers, which are probed first."""
    named = [
        i
        for i in cluster.others()
        if f"/job:worker/replica:0/task:{i}" in reported
    ]
    gone = sorted(cluster.unreachable(named or cluster.others()))
    names = cluster.names(gone or named)
    what = " ".join(reported.partition("is aborted by:")[2].split()) or reported
    return (
        f"{names or 'another worker'} failed or hangs, so this one exits"
        f" ({' '.join(what.split())[:160]}). Fix: restart all workers"
    )
