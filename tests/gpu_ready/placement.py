"""Check that each node of a graph has a kernel for GPUs.

TensorFlow silently moves a node without one to the CPU, with copies in both
directions. The wheel registers its kernels even on a machine without a GPU.
"""

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, kernel_def_pb2, node_def_pb2
from tensorflow.python.framework import kernels

# Nodes that run no kernel of their own, and attributes with their functions.
_WITHOUT_KERNEL = {"If", "NoOp", "PartitionedCall", "Placeholder"}
_WITHOUT_KERNEL |= {"StatefulPartitionedCall", "StatelessIf", "StatelessWhile"}
_WITHOUT_KERNEL |= {"While"}
_FUNCTIONS = ("f", "body", "cond", "then_branch", "else_branch")


def nodes_without_gpu_kernel(graph: graph_pb2.GraphDef) -> list[str]:
    """Returns the nodes outside of XLA that no GPU can run.

    Args:
      graph: Graph with its functions.

    Returns:
      Operation and types of each such node.
    """
    missing = []
    for node in _nodes_outside_xla(graph):
        if node.op not in _WITHOUT_KERNEL and not _has_kernel(node):
            types = {
                name: tf.dtypes.as_dtype(value.type).name
                for name, value in sorted(node.attr.items())
                if value.WhichOneof("value") == "type"
            }
            missing.append(f"{node.op} {types}")
    return missing


def _nodes_outside_xla(
    graph: graph_pb2.GraphDef,
) -> Iterator[node_def_pb2.NodeDef]:
    library = {f.signature.name: f for f in graph.library.function}
    waiting, seen = [list(graph.node)], set()
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in _FUNCTIONS:
                name = node.attr[attribute].func.name
                if not name or name in seen or name not in library:
                    continue
                seen.add(name)
                if not library[name].attr["_XlaMustCompile"].b:
                    waiting.append(list(library[name].node_def))


@functools.cache
def _kernels(operation: str) -> list[kernel_def_pb2.KernelDef]:
    found: Any = kernels.get_registered_kernels_for_op(operation)
    # DEFAULT is any device.
    return [k for k in found.kernel if k.device_type in ("GPU", "DEFAULT")]


def _has_kernel(node: node_def_pb2.NodeDef) -> bool:
    return any(
        all(
            set(_types(node, constraint.name))
            <= set(constraint.allowed_values.list.type)
            for constraint in kernel.constraint
        )
        for kernel in _kernels(node.op)
    )


def _types(node: node_def_pb2.NodeDef, attribute: str) -> list[int]:
    value = node.attr[attribute]
    return list(value.list.type) if value.HasField("list") else [value.type]
