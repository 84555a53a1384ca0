"""The job's step, compiled for GPUs on a machine that has none.

`make test-gpu-ready` runs these tests. GPU_READY=small takes three configs, and
GPU_READY=update writes the limits and their table in docs/performance.md.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from job.distribute import strategy
from tests.gpu_ready import cases, compiler, placement, table, wheel
from tests.gpu_ready.compiler import Job, Result
from tests.support import collectives

MODE = os.environ["GPU_READY"]
CASES = [case for case in cases.CASES if case.is_small or MODE != "small"]
NAMES = [case.name for case in CASES]
LIBRARY = pathlib.Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"


@pytest.fixture(scope="session")
def tool() -> pathlib.Path:
    """The compiler, built once per environment."""
    assert tf.sysconfig.get_build_info()["is_cuda_build"]
    return compiler.build(pathlib.Path(sys.prefix))


class Traced:
    """A traced config whose functions are being compiled."""

    def __init__(self, case, folder, pool, tool):
        config = case.create_config()
        self.precision = config.precision
        self.batch = config.global_batch_size // case.replicas
        summing = contextlib.nullcontext()
        if case.replicas > 1:
            summing = collectives.used_by_cpu_replicas()
        with summing:
            self.graph = compiler.trace(
                config, replicas=case.replicas, phase=case.phase
            )
        functions = compiler.compiled_functions(self.graph)
        assert functions.keys() == set(cases.PARTS)
        jobs = [Job(part, name) for part, name in functions.items()]
        jobs += [
            Job(f"{part}-deterministic", functions[part], deterministic=True)
            for part in ("pass", "augment")
        ]
        jobs += [
            Job(f"pass-{pathlib.Path(gpu).stem}", functions["pass"], gpu)
            for gpu in case.others
        ]
        self._results = pool.submit(
            compiler.compile_graph, tool, self.graph, jobs, folder
        )

    @property
    def results(self) -> dict[str, Result]:
        return self._results.result()


@pytest.fixture(scope="session")
def traced(tool, tmp_path_factory):
    """All cases by name; some compile while others are traced."""
    strategy.split_cpu(2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {
            case.name: Traced(
                case, tmp_path_factory.mktemp("programs"), pool, tool
            )
            for case in CASES
        }


@pytest.mark.parametrize("name", NAMES)
def test_every_node_outside_xla_has_a_gpu_kernel(traced, name):
    assert placement.nodes_without_gpu_kernel(traced[name].graph) == []


def test_the_sum_over_replicas_is_a_collective(traced):
    if "2 replicas" not in traced:
        pytest.skip("not in the small form")
    graph = traced["2 replicas"].graph
    operations = {n.op for f in graph.library.function for n in f.node_def}
    assert "CollectiveReduceV2" in operations


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", cases.PARTS)
def test_the_program_of_an_h100_is_fast(traced, name, part):
    one = traced[name]
    errors = cases.program_errors(
        one.results[part].program, part=part, precision=one.precision
    )
    assert errors == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["augment", "pass"])
def test_deterministic_kernels_are_no_loops(traced, name, part):
    one = traced[name]
    program = one.results[f"{part}-deterministic"].program
    errors = cases.program_errors(program, part=part, precision=one.precision)
    assert errors == []


@pytest.mark.parametrize("case", [c for c in CASES if c.others], ids=str)
def test_other_gpus(traced, case):
    for gpu in case.others:
        result = traced[case.name].results[f"pass-{pathlib.Path(gpu).stem}"]
        if gpu == "a100":
            errors = cases.program_errors(
                result.program, part="pass", precision="bfloat16"
            )
            assert errors == []
        else:
            # A T4 has float16 but not bfloat16; see job/distribute/gpus.py.
            has_type = traced[case.name].precision == "float16"
            kinds = {c.split()[0] for c in result.program.convolutions}
            assert kinds == {"f16" if has_type else "f32"}


def test_figures_stay_below_their_limits(traced):
    measured = {
        case.name: table.figures(traced[case.name].results) for case in CASES
    }
    if MODE == "update":
        table.write(measured)
    limits = cases.read_limits()
    errors = [
        f"{name} {part}: {error}"
        for name, parts in measured.items()
        for part, figures in parts.items()
        for error in cases.limit_errors(figures, limits[name][part])
    ]
    assert not errors, "\n".join(errors)


@pytest.fixture(scope="session")
def planted(tool, tmp_path_factory):
    """Programs of functions that a change might bring into the step."""
    images = tf.TensorSpec([64, 16, 16, 32], tf.float32)
    kernel = tf.constant(0.1, shape=[3, 3, 32, 32])

    def convolved(x):
        return tf.nn.conv2d(x, kernel, 1, "SAME")

    def scatter(x):
        return tf.gradients(tf.nn.max_pool2d(x, 2, 2, "VALID"), x)[0]

    def conditional(x):
        is_large = tf.reduce_sum(x) > 0
        return tf.cond(is_large, lambda: convolved(convolved(x)), lambda: x)

    def sort(x):
        return tf.sort(x, axis=0)

    functions = [scatter, conditional, sort, convolved]
    compiled = [
        tf.function(f, jit_compile=True, autograph=False) for f in functions
    ]

    @tf.function(autograph=False)
    def everything(x):
        return [f(x) for f in compiled]

    graph = everything.get_concrete_function(images).graph.as_graph_def(
        add_shapes=True
    )
    names = [f.signature.name for f in graph.library.function]
    jobs = [
        Job(f.__name__, next(n for n in names if f"_{f.__name__}_" in n))
        for f in functions
    ]
    jobs.append(Job("while", jobs[0].function, deterministic=True))
    return compiler.compile_graph(
        tool, graph, jobs, tmp_path_factory.mktemp("planted")
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scatter", "scatter"),
        ("while", "while"),
        ("conditional", "conditional"),
        ("sort", "sort"),
        ("convolved", "convolution of f32"),
    ],
)
def test_a_planted_regression_is_found(planted, name, said):
    errors = cases.program_errors(
        planted[name].program, part="pass", precision="bfloat16"
    )
    assert any(said in error for error in errors), errors


def test_a_planted_node_without_a_gpu_kernel_is_found():
    @tf.function(autograph=False)
    def gather(images, places):
        # TensorFlow 2.21 has no GPU kernel for uint8.
        return tf.gather(images, places) + 1

    graph = gather.get_concrete_function(
        tf.TensorSpec([8, 4], tf.uint8), tf.TensorSpec([3], tf.int32)
    ).graph.as_graph_def()
    (missing,) = placement.nodes_without_gpu_kernel(graph)
    assert missing.startswith("GatherV2")
    assert "uint8" in missing


def test_the_documented_gpus_are_those_of_the_wheel():
    kinds = wheel.read(LIBRARY)
    (elementwise,) = [kind for kind in kinds if "sm_90" not in kind]
    (others,) = [kind for kind in kinds if "sm_90" in kind]
    assert elementwise == "sm_89 sm_80 sm_70 sm_60 ptx_90/8.5"
    assert others == "sm_90 sm_89 sm_80 sm_70 sm_60 ptx_90/8.3"
    rows = table.documented_kernels()
    for kind, row in ((elementwise, rows[0]), (others, rows[1])):
        code, _, ptx = kind.rpartition(" ")
        capabilities = sorted(re.findall(r"sm_(\d)(\d)", code))
        assert ", ".join(".".join(c) for c in capabilities) in row
        assert f"PTX {ptx.rpartition('/')[2]}" in row


def run_with_other_toolkit(tool, tmp_path, flags):
    """Compiles with another ptxas first on PATH; returns whether it ran."""
    marker = tmp_path / "other_ptxas_ran"
    other = tmp_path / "bin"
    other.mkdir()
    (other / "ptxas").write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    (other / "ptxas").chmod(0o755)

    @tf.function(jit_compile=True, autograph=False)
    def softmax(x):
        return tf.nn.softmax(x)  # Its exponential is in libdevice.

    @tf.function(autograph=False)
    def outer(x):
        return softmax(x)

    graph = outer.get_concrete_function(
        tf.TensorSpec([64, 64])
    ).graph.as_graph_def(add_shapes=True)
    (name,) = [
        f.signature.name
        for f in graph.library.function
        if f.attr["_XlaMustCompile"].b
    ]
    # Hide other toolkits if the machine permits it.
    hidden = ["unshare", "--mount", "sh", "-c"]
    hidden += ['mount -t tmpfs none /usr/local && exec "$0" "$@"']
    probe = subprocess.run([*hidden, "true"], capture_output=True, check=False)
    with contextlib.suppress(RuntimeError):
        compiler.compile_graph(
            tool,
            graph,
            [Job("softmax", name)],
            tmp_path / "programs",
            environment={"PATH": f"{other}:/usr/bin:/bin", "XLA_FLAGS": flags},
            wrapper=hidden if probe.returncode == 0 else [],
        )
    compiled = (tmp_path / "programs/softmax.hlo").exists()
    return compiled, marker.exists()


def test_ptxas_and_libdevice_are_those_of_the_wheel(tool, tmp_path):
    flags = os.environ["XLA_FLAGS"]
    assert "nvidia/cuda_nvcc" in flags
    assert run_with_other_toolkit(tool, tmp_path, flags) == (True, False)


def test_without_the_flag_another_ptxas_is_used(tool, tmp_path):
    _, other_ran = run_with_other_toolkit(tool, tmp_path, "")
    assert other_ran


def test_the_compiler_is_there():
    assert shutil.which("g++"), "Debian: apt-get install g++"
