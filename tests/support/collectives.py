"""Sums over CPU replicas with the collectives that several GPUs use."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.python.distribute import mirrored_strategy

# TensorFlow uses it to distinguish the collectives of two strategies.
_KEYS = itertools.count(1000, 1000)


@contextlib.contextmanager
def used_by_cpu_replicas() -> Iterator[None]:
    """Sums over CPU replicas by collectives, not on one device.

    MirroredStrategy has CollectiveAllReduce for CPUs and GPUs alike, but uses
    ReductionToOneDevice for a sum over CPUs.
    """

    def reduce_to(
        self: Any, reduce_op: Any, value: Any, destinations: Any, options: Any
    ) -> Any:
        options = self._communication_options.merge(options)
        return tf.nest.map_structure(
            lambda v: self._get_cross_device_ops(v).reduce(
                reduce_op, v, destinations=destinations, options=options
            ),
            value,
        )

    with (
        mock.patch.object(
            mirrored_strategy.MirroredExtended, "_reduce_to", reduce_to
        ),
        mock.patch.object(
            tf.distribute.MirroredStrategy, "_collective_key_base", next(_KEYS)
        ),
    ):
        yield
