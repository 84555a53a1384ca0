"""How fast the job is, here: step, whole job, augmentation, input.

    print(run_benchmark(config, None, StopRequest()))

The bare step is the compiled step on one batch that is already there: no data,
no augmentation, no logging. The job is the real loop, with all of them. Both
train the same variables, in turn, a few seconds each, so that what else the
machine does hits both; what is reported is the median of the pairs. In between
runs the augmentation alone, as many steps of one replica's images, and a large
matrix product in the step's precision: what the step's arithmetic comes to is
given as a share of that rate. A save is timed by itself and spread over the
steps between two checkpoints.
"""

import dataclasses
import functools
import math
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ml_collections
import tensorflow as tf

from job import train
from job.checkpoint import store
from job.checkpoint.saver import AsyncSaver
from job.config import ranges as config_lib
from job.data import pipeline
from job.data.dataset import Dataset
from job.model import flops
from job.output import metrics
from job.output.progress import Progress
from job.storage import Storage, disk, files
from job.supervision.preemption import StopRequest
from job.training import step
from job.training.history import History
from job.training.loop import Loop
from job.training.plan import Plan
from job.training.state import TrainState

FILE = "benchmark.json"

_ROUNDS = 10
_SEGMENT_SECONDS = 4.0
_SAVES = 10
_EVALUATIONS = 3
# Side of the matrices whose product is taken for the hardware's best: large
# enough that a larger one is no quicker.
_MATRIX_SIDE = {"CPU": 2048, "GPU": 8192}
# Products in a row: on a GPU one takes little more than to ask for it.
_PRODUCTS = {"CPU": 1, "GPU": 50}
# No log line, evaluation or checkpoint is due at a step that is never reached.
_NEVER = 10**9


def run_benchmark(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path | None,
    stop: StopRequest,
    *,
    storage: Storage | None = None,
) -> str:
    """Measures a config's speed on this machine.

    Args:
      config: as for training; data is loaded as there.
      workdir: gets benchmark.json; None: the table is all there is.
      stop: polled between two measurements.
      storage: where the saves go that are timed, and are removed again; None:
        a temporary folder.

    Returns:
      A table.
    """
    start = time.perf_counter()
    stop.saved = "the benchmark has no result yet"
    strategy = train.create_strategy(config)
    data = train.load_data(config)
    plan = train.create_plan(config, len(data.train))
    state = train.create_state(config, strategy, num_classes=data.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        checkpoints = storage or disk.Disk(scratch / "checkpoints")
        saver = AsyncSaver(store.CheckpointStore(checkpoints))
        loop = _create_loop(config, strategy, data, state, plan, scratch, saver)
        bare = _create_bare(config, strategy, data, state, plan)
        augment = _create_augment(config, strategy, data, plan)
        loop.run(until=1)
        first_step_seconds = time.perf_counter() - start
        bare(1)
        seconds = statistics.median(_seconds(lambda: bare(2)) for _ in range(3))
        count = max(2, round(_SEGMENT_SECONDS / (seconds / 2)))
        augment(1)
        multiply = _create_multiply(config.precision, strategy)
        multiply()
        pairs, augmenting, tflops = [], [], []
        for _ in range(_ROUNDS):
            stop.check()
            bare_seconds = _seconds(functools.partial(bare, count))
            until = int(state.step.numpy()) + count
            job = functools.partial(loop.run, until=until)
            pairs.append((bare_seconds, _seconds(job)))
            augmenting.append(_seconds(functools.partial(augment, count)))
            tflops.append(multiply())
        loop.score(0)  # Compiles.
        evaluating = [
            _seconds(lambda: loop.score(0)) for _ in range(_EVALUATIONS)
        ]
        stalls = [_stall(loop, state) for _ in range(_SAVES)]
        commits = saver.commits
        saver.close()
        loop.log.close()
        for entry in checkpoints.find():
            checkpoints.delete(entry.name)
    input_rates = [_input_rate(config, data) for _ in range(_ROUNDS)]

    images = count * config.global_batch_size
    replicas = strategy.num_replicas_in_sync
    # Backward and forward, in the first phase, which all these steps are of.
    phase = plan.phases[0]
    cost = flops.image_gflop(
        state.model, phase.input_size, phase.trainable_blocks
    )
    step_tflop = cost.train * config.global_batch_size / 1e3
    step_seconds = statistics.median(b for b, _ in pairs) / count
    # An epoch may be too short for a save each.
    every = plan.checkpoint_every_steps
    every *= max(1, math.ceil(plan.checkpoint_seconds / (every * step_seconds)))
    saving = statistics.median(stalls) / every / step_seconds
    report = {
        "config_hash": config_lib.fingerprint(config_lib.flatten(config)),
        "hardware": _hardware(),
        "replicas": replicas,
        "global_batch_size": config.global_batch_size,
        "precision": config.precision,
        "model_width": config.model.width,
        "input_size": plan.phases[0].input_size,
        "rounds": _ROUNDS,
        "steps_a_round": count,
        "step_images_per_second": _spread([images / b for b, _ in pairs]),
        "job_images_per_second": _spread([images / j for _, j in pairs]),
        "augment_images_per_second": _spread([images / a for a in augmenting]),
        "input_images_per_second": _spread(input_rates),
        "evaluate_images_per_second": _spread(
            [len(data.test) / seconds for seconds in evaluating]
        ),
        "step_tflop": step_tflop,
        "matrix_product_tflops": _spread(tflops),
        "model_flop_utilization": _spread(
            [
                step_tflop * count / bare / replicas / rate
                for (bare, _), rate in zip(pairs, tflops, strict=True)
            ]
        ),
        "augment_share_of_step": _spread(
            [a / b for (b, _), a in zip(pairs, augmenting, strict=True)]
        ),
        "loop_overhead": _spread([j / b - 1 for b, j in pairs]),
        "save_to": str(storage or "disk"),
        "save_bytes": commits[0][0],
        "save_stall_seconds": _spread(stalls),
        "save_seconds": _spread([seconds for _, seconds in commits]),
        "save_every_steps": every,
        "save_overhead": saving,
        "load_to_first_step_seconds": first_step_seconds,
        "compile_seconds": loop.history.compile_seconds,
        "peak_memory_bytes": _peak_memory(),
    }
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / FILE, report)
    return _table(report)


def _create_loop(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    data: Dataset,
    state: TrainState,
    plan: Plan,
    scratch: pathlib.Path,
    saver: AsyncSaver,
) -> Loop:
    """Returns the real loop; when it saves, scores and stops is left to us."""
    return Loop(
        plan=dataclasses.replace(
            plan,
            train_steps=_NEVER,
            evaluate_every_steps=0,
            checkpoint_every_steps=_NEVER,
            phases=plan.phases[:1],
        ),
        state=state,
        train_steps=functools.partial(
            train.create_train_steps, config, strategy, state, plan, state.model
        ),
        make_batches=lambda first_step: train.create_batches(
            config, strategy, data.train, first_step=first_step
        ),
        evaluator=train.create_evaluator(
            config, strategy, data.test, num_classes=data.num_classes
        ),
        split="test",
        saver=saver,
        history=History(config_lib.flatten(config), data.checksum()),
        log=metrics.MetricsLog(scratch, first_step=0),
        progress=Progress(_NEVER, first_step=0, quiet=True),
        stop=StopRequest(),
    )


def _create_bare(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    data: Dataset,
    state: TrainState,
    plan: Plan,
) -> Callable[[int], None]:
    """Returns a function that runs steps on one batch, and waits for them."""
    replicas = strategy.num_replicas_in_sync
    batches = pipeline.train_batches(
        data.train,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        first_step=0,
        num_replicas=replicas,
    )
    same = pipeline.distribute(
        strategy, lambda own: batches.take(replicas).cache().repeat()
    )
    steps = step.make_train_steps(
        strategy,
        state,
        train.take_images,
        train.optimizer_settings(config, plan),
        network=state.model,
        resize=train.create_resize(config, plan.phases[0].input_size),
        trainable_blocks=plan.phases[0].trainable_blocks,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        jit_compile=train.use_jit(config, strategy),
    )

    def run(count: int) -> None:
        steps(same, tf.constant(count))
        state.step.numpy()

    return run


def _create_augment(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    data: Dataset,
    plan: Plan,
) -> Callable[[int], None]:
    """Returns a function that augments one batch, time and again."""
    replicas = strategy.num_replicas_in_sync
    augment = train.create_augment(config, strategy, plan)
    with tf.device(strategy.extended.worker_devices[0]):
        (batch,) = pipeline.train_batches(
            data.train,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            first_step=0,
            num_replicas=replicas,
        ).take(1)

        @tf.function(autograph=False)
        def steps(count: tf.Tensor) -> tf.Tensor:
            # Counted in int32, which stays on the host of a GPU.
            def body(done: tf.Tensor, total: tf.Tensor) -> tuple:
                step = tf.cast(done, tf.int64)
                images = augment(batch, step, tf.constant(0)).image
                pixel = tf.cast(images[-1, -1, -1, -1], tf.float32)
                return done + 1, total + pixel

            return tf.while_loop(
                lambda done, _: done < count,
                body,
                (tf.constant(0), tf.constant(0.0)),
                parallel_iterations=1,
            )[1]

    def run(count: int) -> None:
        steps(tf.constant(count)).numpy()

    return run


def _create_multiply(
    precision: str, strategy: tf.distribute.Strategy
) -> Callable[[], float]:
    """Returns a function that measures a large matrix product.

    It returns 10^12 operations a second of one device, at its best of three,
    in the type of the step's arithmetic, accumulated as the step's are.
    """
    device = strategy.extended.worker_devices[0]
    kind = "GPU" if "GPU" in device else "CPU"
    side, count = _MATRIX_SIDE[kind], _PRODUCTS[kind]
    with tf.device(device):
        # So scaled, a product with it is no larger than what it is taken of.
        matrix = tf.cast(
            tf.random.stateless_normal([side, side], [0, 1]) * side**-0.5,
            precision,
        )

    @tf.function(autograph=False)
    def products() -> tf.Tensor:
        with tf.device(device):
            return tf.while_loop(
                lambda done, _: done < count,
                lambda done, x: (done + 1, tf.linalg.matmul(x, matrix)),
                (tf.constant(0), matrix),
            )[1][0, 0]

    def measure() -> float:
        seconds = min(_seconds(lambda: products().numpy()) for _ in range(3))
        return 2 * side**3 * count / seconds / 1e12

    return measure


def _peak_memory() -> dict[str, int]:
    """Returns the most bytes used at once: of the host, and of each GPU."""
    # Linux counts in KiB.
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for gpu in tf.config.list_logical_devices("GPU"):
        name = gpu.name.removeprefix("/device:")
        peak[name] = tf.config.experimental.get_memory_info(name)["peak"]
    return peak


def _stall(loop: Loop, state: TrainState) -> float:
    """Returns for how long a save keeps the loop from its steps, in seconds."""
    state.step.assign_add(1)  # A step is committed once only.
    seconds = _seconds(lambda: loop.save(int(state.step.numpy())))
    loop.saver.flush()
    return seconds


def _input_rate(config: ml_collections.ConfigDict, data: Dataset) -> float:
    """Returns images/s of the pipeline alone: shuffled, endless, uint8."""
    batches = iter(
        pipeline.train_batches(
            data.train,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            first_step=0,
        )
    )

    # Where there is a GPU, reading a pixel would take the batch there.
    @tf.function(autograph=False)
    def take(count: tf.Tensor) -> tf.Tensor:
        def body(done: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            pixel = next(batches).image[-1, -1, -1, -1]
            return done + 1, total + tf.cast(pixel, tf.int32)

        with tf.device("CPU:0"):
            start = (tf.constant(0), tf.constant(0))
            return tf.while_loop(lambda done, _: done < count, body, start)[1]

    take(tf.constant(10)).numpy()
    count = max(20, 400_000 // config.global_batch_size)
    seconds = _seconds(lambda: take(tf.constant(count)).numpy())
    return count * config.global_batch_size / seconds


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    """Returns the median, and the mean's 95 % interval (normal)."""
    mean = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return {
        "median": statistics.median(values),
        "low": mean - half,
        "high": mean + half,
    }


def _hardware() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def _table(report: dict[str, Any]) -> str:
    def rate(name: str) -> str:
        spread = report[f"{name}_images_per_second"]
        batch = report["global_batch_size"]
        numbers = (spread["median"], spread["low"], spread["high"])
        columns = "".join(f"{number:>12,.0f}" for number in numbers)
        return f"{name:<8}{columns}{batch / spread['median'] * 1e3:>12.2f}"

    loop, saving = report["loop_overhead"], report["save_overhead"]
    save = report["save_seconds"]["median"]
    stall = report["save_stall_seconds"]["median"]
    megabytes = report["save_bytes"] / 1e6
    return "\n".join(
        [
            f"{report['hardware']}, {report['replicas']} replica(s), batch"
            f" {report['global_batch_size']}, {report['precision']}, width"
            f" {report['model_width']}, {report['input_size']} px",
            f"median of {report['rounds']} rounds of {report['steps_a_round']}"
            " steps, 95 % interval of the mean; compile time not included",
            "",
            f"{'':<8}{'images/s':>12}{'from':>12}{'to':>12}{'ms a step':>12}",
            rate("step"),
            rate("job"),
            rate("augment"),
            rate("input"),
            rate("evaluate"),
            "",
            f"the step is {report['step_tflop']:.3f} TFLOP,"
            f" {report['model_flop_utilization']['median']:.0%} of the rate of"
            " a large matrix product"
            f" ({report['matrix_product_tflops']['median']:.2f} TFLOP/s)",
            f"the job costs {loop['median']:+.1%} over the bare step"
            f" ({loop['low']:+.1%} to {loop['high']:+.1%}), its augmentation of"
            f" {report['augment_share_of_step']['median']:.1%} included",
            f"a save each {report['save_every_steps']} steps stops it for"
            f" {stall:.2f} s, {saving:.1%}: {loop['median'] + saving:+.1%} in"
            " all",
            f"a save: {megabytes:.0f} MB to {report['save_to']} in"
            f" {save:.2f} s, beside the training",
            f"data to first step: {report['load_to_first_step_seconds']:.1f} s,"
            f" of which {report['compile_seconds']:.1f} s compile the step",
            "most memory used, this benchmark's own included: "
            + ", ".join(
                f"{size / 1e9:.2f} GB ({place})"
                for place, size in report["peak_memory_bytes"].items()
            ),
        ]
    )
