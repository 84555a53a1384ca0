"""XLA's GPU compiler on a machine without a GPU.

    tool = compiler.build(folder)
    graph = compiler.trace(config, replicas=1)
    results = compiler.compile_graph(tool, graph, jobs, folder)

The tool is C++ against the headers of TensorFlow's CUDA wheel, so the compiler
is that of a real run. The functions are those of the job's own step, traced on
a CPU without any replacement.
"""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
from collections.abc import Iterable

import ml_collections
import tensorflow as tf

from job import build as build_lib
from job.data import sources
from tests.gpu_ready.program import Program

_SOURCE = pathlib.Path(__file__).with_name("compiler.cc")
# Folders of headers that TensorFlow's headers include by their installed names.
_INCLUDES = ("", "external/highwayhash", "external/farmhash_archive/src")
# CIFAR-10's training images. The graph depends on their number only.
_NUM_IMAGES = 50_000


@dataclasses.dataclass(frozen=True)
class Job:
    """A function of a graph to compile.

    Attributes:
      name: Name of the result.
      function: Name of the function in the graph.
      target: h100, a100 or the path of a GpuTargetConfig.
      deterministic: Whether to compile deterministic kernels.
    """

    name: str
    function: str
    target: str = "h100"
    deterministic: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """A compiled function.

    Attributes:
      program: Optimized program.
      seconds: Processor time of the compilation.
      temporary_bytes: Memory besides arguments and results.
    """

    program: Program
    seconds: float
    temporary_bytes: int


def build(folder: pathlib.Path) -> pathlib.Path:
    """Compiles the tool unless the folder has it; returns its path."""
    root = pathlib.Path(tf.sysconfig.get_lib())
    text = _SOURCE.read_bytes() + tf.__version__.encode()
    tool = folder / f"gpu-compiler-{hashlib.sha256(text).hexdigest()[:12]}"
    if tool.exists():
        return tool
    unfinished = tool.with_suffix(f".{os.getpid()}")
    subprocess.run(
        [
            "g++",
            *tf.sysconfig.get_compile_flags(),
            *(f"-I{root}/include/{name}" for name in _INCLUDES),
            *("-O0", "-w", str(_SOURCE), "-o", str(unfinished), f"-L{root}"),
            "-l:libtensorflow_cc.so.2",
            "-l:libtensorflow_framework.so.2",
            f"-Wl,-rpath,{root}",
        ],
        check=True,
    )
    unfinished.rename(tool)
    return tool


def trace(
    config: ml_collections.ConfigDict, *, replicas: int = 1, phase: int = -1
) -> tf.compat.v1.GraphDef:
    """Traces the train steps of a config as they are traced for GPUs.

    Args:
      config: Config with jit_compile="on".
      replicas: Number of replicas, each on a CPU device of this process.
      phase: Index of the phase of the run.

    Returns:
      The graph with all functions and shapes.
    """
    data = sources.load("synthetic", synthetic_train_images=640)
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)]
    )
    plan = build_lib.create_plan(config, _NUM_IMAGES)
    state = build_lib.create_state(
        config, strategy, num_classes=data.num_classes
    )
    inputs, network = build_lib.prepare_inputs(
        config, data.train, state, plan, lambda: None
    )
    steps = build_lib.create_train_steps(
        config, strategy, state, plan, network, plan.phases[phase]
    )
    batches = build_lib.create_batches(config, strategy, inputs, first_step=0)
    function = steps.get_concrete_function(batches, tf.constant(1))
    return function.graph.as_graph_def(add_shapes=True)


def compiled_functions(graph: tf.compat.v1.GraphDef) -> dict[str, str]:
    """Returns the functions that XLA compiles for the first replica.

    Returns:
      Name of the function by part of the step: augment, pass or update.
    """
    found: dict[str, str] = {}
    for function in graph.library.function:
        if not function.attr["_XlaMustCompile"].b:
            continue
        name = function.signature.name
        writes = any(
            node.op.startswith(("Assign", "If")) for node in function.node_def
        )
        part = "pass" if "forward_backward" in name else "augment"
        found.setdefault("update" if writes else part, name)
    return found


def compile_graph(
    tool: pathlib.Path,
    graph: tf.compat.v1.GraphDef,
    jobs: Iterable[Job],
    folder: pathlib.Path,
    *,
    environment: dict[str, str] | None = None,
    wrapper: Iterable[str] = (),
) -> dict[str, Result]:
    """Compiles functions of a graph.

    Args:
      tool: Path of the tool.
      graph: Graph with the functions.
      jobs: Functions to compile.
      folder: Folder for the graph and the programs.
      environment: Environment of the tool.
      wrapper: Command that starts the tool.

    Returns:
      Results by the names of the jobs.

    Raises:
      RuntimeError: A function does not compile. The message has XLA's error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    lines = [
        f"{j.name} {j.function} {j.target} {int(j.deterministic)}" for j in jobs
    ]
    done = subprocess.run(
        [*wrapper, str(tool), str(path), str(folder)],
        input="\n".join(lines) + "\n",
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **(environment or os.environ)},
        capture_output=True,
        text=True,
        check=False,
    )
    results = {}
    for line in done.stdout.splitlines():
        name, outcome, *rest = line.split(" ", 3)
        if outcome != "ok":
            raise RuntimeError(f"{name}: {' '.join(rest)}")
        results[name] = Result(
            Program.parse((folder / f"{name}.hlo").read_text()),
            float(rest[0]),
            int(rest[1]),
        )
    if len(results) < len(lines):
        raise RuntimeError(
            f"exit code {done.returncode}: {done.stderr[-2000:]}"
        )
    return results
