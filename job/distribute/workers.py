"""What the workers of a run tell one another between two calls.

Everything that decides what is called next must be the same on all of them: a
collective that one of them does not enter holds up the others. So whoever
was told to stop, and how many steps the next call has, is agreed here; and the
chief, who alone reads and writes checkpoints, hands on what he found.

    peers = Peers(strategy, cluster)
    peers.any(stop.requested)               # True on all, if on one
    peers.chiefs(number)                    # the chief's number
    peers.broadcast(content)                # the chief's bytes

Alone (`Peers()`), all of that costs nothing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from job import errors
from job.checkpoint import manifest
from job.checkpoint.saver import AsyncSaver
from job.distribute.environment import Cluster, is_deaf

# int32 numbers in one message; a long one is cut into several.
_SMALL = 1 << 10
_LARGE = 1 << 22

# How TensorFlow reports another worker that is gone, hung or new.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


class Peers:
    """The workers of a run, seen from one of them.

    Every method is to be called by all of them, in the same order.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        """Tells nobody anything yet.

        Args:
          strategy: over the devices of all workers.
          cluster: the workers; None: there is one.
        """
        self.count = len(cluster.workers) if cluster else 1
        self.is_chief = cluster.is_chief if cluster else True
        self._strategy = strategy

        @tf.function(autograph=False)
        def add(numbers: tf.Tensor) -> tf.Tensor:
            def replica_add() -> tf.Tensor:
                context = tf.distribute.get_replica_context()
                # A worker speaks once, however many devices it has.
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
        """Says whether the flag of any worker is set."""
        if self.count == 1:
            return flag
        return bool(self._sum(np.array([flag], np.int32))[0])

    def chiefs(self, number: int) -> int:
        """Returns the chief's number, of 31 bits."""
        if self.count == 1:
            return number
        said = number if self.is_chief else 0
        return int(self._sum(np.array([said], np.int32))[0])

    def broadcast(self, content: bytes) -> bytes:
        """Returns the chief's bytes; what others give is ignored.

        They are summed with zeros as integers, so that none is changed.
        """
        if self.count == 1:
            return content
        size = self.chiefs(len(content))
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
        """Returns the chief's value, of JSON's types."""
        if self.count == 1:
            return value
        said = json.dumps(value).encode() if self.is_chief else b""
        return json.loads(self.broadcast(said))

    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns the chief's arrays, equal to the last bit."""
        if self.count == 1:
            return arrays
        table = self.broadcast_json(
            {n: (a.dtype.str, a.shape) for n, a in arrays.items()}
        )
        parts = [np.ascontiguousarray(a).tobytes() for a in arrays.values()]
        content = self.broadcast(b"".join(parts) if self.is_chief else b"")
        received, start = {}, 0
        for name, (kind, shape) in table.items():
            dtype = np.dtype(kind)
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(content, dtype, count, start)
            received[name] = array.reshape(shape)
            start += array.nbytes
        return received

    def tell(self, work: Callable[[], Any]) -> Any:
        """Returns what the chief's `work` does, or raises what it raises.

        Args:
          work: is called by the chief; returns a value of JSON's types.

        Raises:
          JobError: the chief's, on all workers.
        """
        if self.count == 1:
            return work()
        said: dict[str, Any] = {}
        failed: errors.JobError | None = None
        if self.is_chief:
            try:
                said = {"value": work()}
            except errors.JobError as error:
                failed = error
                kind = next(
                    k
                    for k in type(error).__mro__
                    if hasattr(errors, k.__name__)
                )
                said = {"error": kind.__name__, "message": str(error)}
        said = self.broadcast_json(said)
        if failed:
            raise failed
        if "error" in said:
            raise getattr(errors, said["error"])(said["message"])
        return said["value"]

    def part(self) -> None:
        """Returns when all have come here; nothing may be told any more."""
        self.any(False)
        # Whoever comes from the first time round may end the process, but for
        # one whose last message has not arrived: so he waits once more.
        with contextlib.suppress(*_LOST):
            self.any(False)

    def _sum(self, numbers: np.ndarray) -> np.ndarray:
        return self._add(tf.constant(numbers)).numpy()


class SharedSaver:
    """The chief's saver, as all workers see it.

    It does what `AsyncSaver` does. What that returns or raises after a wait
    is the same on all workers; who is not the chief saves nothing.
    """

    def __init__(
        self,
        peers: Peers,
        saver: AsyncSaver | None,
        *,
        committed_step: int | None,
    ) -> None:
        """Takes the chief's saver, and None from the others.

        Args:
          peers: whom it shares the saver with.
          saver: the chief's.
          committed_step: of the checkpoint that the run goes on from, if any.
        """
        self._peers = peers
        self._saver = saver
        self._committed = committed_step

    @property
    def committed_step(self) -> int | None:
        """The newest one that all workers know of; None: there is none."""
        return self._committed

    def save(
        self, step: int, tensors: dict[str, np.ndarray], run: dict[str, Any]
    ) -> None:
        """Hands a checkpoint over."""
        if self._saver:
            self._saver.save(step, tensors, run)

    def check(self) -> None:
        """Raises what ended saving for good; on the chief only."""
        if self._saver:
            self._saver.check()

    def wait(self, seconds: float) -> bool:
        """Waits; returns whether all is committed, and old ones are removed."""

        def wait() -> list[Any]:
            assert self._saver
            return [self._saver.wait(seconds), self._saver.committed_step]

        is_idle, self._committed = self._peers.tell(wait)
        return is_idle

    def flush(self, timeout: float | None = None) -> int | None:
        """Waits until all that was handed over is committed."""
        self._committed = self._peers.tell(
            lambda: self._saver.flush(timeout) if self._saver else None
        )
        return self._committed

    def restore_newest(
        self,
    ) -> tuple[manifest.Manifest, dict[str, np.ndarray]] | None:
        """Returns the newest checkpoint, as the chief finds it."""
        tensors: dict[str, np.ndarray] = {}

        def restore() -> str | None:
            assert self._saver
            found = self._saver.restore_newest()
            if found is None:
                return None
            tensors.update(found[1])
            return found[0].to_json().decode()

        text = self._peers.tell(restore)
        if text is None:
            return None
        found = manifest.from_json(text.encode())
        self._committed = found.step
        return found, self._peers.broadcast_arrays(tensors)

    def __enter__(self) -> "SharedSaver":
        if self._saver:
            self._saver.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._saver:
            self._saver.__exit__(*error)


@contextlib.contextmanager
def lost_explained(cluster: Cluster | None) -> Iterator[None]:
    """Turns what TensorFlow says of a lost worker into PeerLostError.

    Args:
      cluster: the workers; None: there is one, and nothing is changed.
    """
    try:
        yield
    except _LOST as error:
        if not cluster or len(cluster.workers) == 1:
            raise
        raise errors.PeerLostError(_who(cluster, str(error))) from None


def _who(cluster: Cluster, said: str) -> str:
    """Says which worker is lost, where TensorFlow or a look at it tells."""
    named = [
        i for i in cluster.others() if f"/job:worker/replica:0/task:{i}" in said
    ]
    gone = [i for i in named or cluster.others() if is_deaf(cluster.workers[i])]
    names = cluster.names(gone or named)
    what = " ".join(said.partition("is aborted by:")[2].split()) or said
    return (
        f"{names or 'another worker'} is gone or hangs, so this one ends too;"
        f" start all again ({' '.join(what.split())[:160]})"
    )
