"""Timed parts of the benchmark: step, job, augmentation, input and saves.

    measured = measure(config, StopRequest(), rounds=10)

The bare step is the compiled step on one batch on the device, without input,
augmentation or logging. The job is the training loop with all of them. Both
train the same variables, in turn, a few seconds each, so that other load on the
machine affects both. The result is the median of the pairs. Each round also
times the augmentation alone, for as many steps of one replica's images. A large
matrix product in the step's precision is the reference for the utilization of
the hardware. A save is timed alone and spread over the steps between two
checkpoints.
"""

import contextlib
import dataclasses
import functools
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from job import build
from job.checkpoint import store
from job.checkpoint.saver import AsyncSaver
from job.config import serialization
from job.data import pipeline
from job.data.dataset import Dataset, Split
from job.distribute import strategy as strategy_lib
from job.distribute.workers import Workers
from job.output import metrics
from job.output.progress import Progress
from job.output.reporter import Reporter
from job.storage import Storage, disk
from job.storage.workdir import CHECKPOINTS
from job.supervision.preemption import StopRequest
from job.training.history import History
from job.training.loop import Loop, Training
from job.training.plan import Plan
from job.training.state import TrainState
from job.training.supervisor import Supervisor

ROUNDS = 10
SEGMENT_SECONDS = 4.0
_SAVES = 10
_EVALUATIONS = 3
# Height and width of the matrices whose product is the reference, large enough
# that a larger one is not faster.
_MATRIX_SIZE = {"CPU": 2048, "GPU": 8192}
# Products per call, as one on a GPU takes little longer than its launch.
_PRODUCTS = {"CPU": 1, "GPU": 50}
# Interval that disables log lines, evaluations and checkpoints.
_NEVER = 10**9


@dataclasses.dataclass
class Measured:
    """Raw measurements, in seconds if not stated otherwise.

    Attributes:
      plan: Plan of the run.
      replicas: Number of replicas.
      test_images: Number of images of an evaluation.
      steps: Steps per segment.
      first_step: Time from loading the data to the end of the first step.
      compiling: Compile time of the step.
      step_tflop: Cost of a step, in 10^12 floating-point operations.
      bare: Times of segments of the bare step.
      job: Times of segments of the job, in pairs with `bare`.
      augmenting: Times of segments of the augmentation.
      matrix_tflops: Rates of the matrix product, in 10^12 operations per
        second.
      evaluating: Times of evaluations.
      stalls: Times for which a save blocks the loop.
      commits: Bytes and seconds of each save.
      input_rates: Images per second of the input pipeline.
      save_to: Name of the storage of the saves.
      hardware: Name of the processor or of the GPUs.
      peak_memory: Largest number of bytes in use, of the host and of each GPU.
    """

    plan: Plan
    replicas: int
    test_images: int
    steps: int
    first_step: float
    compiling: float
    step_tflop: float
    bare: list[float]
    job: list[float]
    augmenting: list[float]
    matrix_tflops: list[float]
    evaluating: list[float]
    stalls: list[float]
    commits: list[tuple[int, float]]
    input_rates: list[float]
    save_to: str
    hardware: str
    peak_memory: dict[str, int]


def measure(
    config: ml_collections.ConfigDict,
    stop: StopRequest,
    *,
    storage: Storage | None = None,
    rounds: int = ROUNDS,
    segment_seconds: float = SEGMENT_SECONDS,
) -> Measured:
    """Measures the speed of a config on this machine.

    Args:
      config: Checked config, whose data is loaded as for training.
      stop: Stop request, polled between two rounds.
      storage: Storage of the timed saves, which are removed again. If None, a
        temporary folder.
      rounds: Number of rounds.
      segment_seconds: Duration of a segment, in seconds.
    """
    start = time.perf_counter()
    strategy = build.create_strategy(config)
    data = build.load_data(config)
    plan = build.create_plan(config, len(data.train))
    state = build.create_state(config, strategy, num_classes=data.num_classes)
    # The features of a frozen base are computed before the steps, as in a run.
    inputs, network = build.prepare_inputs(
        config, data.train, state, plan, stop.check
    )
    training = build.create_training(
        config, strategy, state, plan, inputs, network
    )
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        scratch = pathlib.Path(folder)
        checkpoints = storage or disk.Disk(scratch / CHECKPOINTS)
        opened.callback(_delete_all, checkpoints)
        saver = opened.enter_context(
            AsyncSaver(store.CheckpointStore(checkpoints))
        )
        log = metrics.MetricsLog(scratch, first_step=0)
        opened.callback(log.close)
        loop = _create_loop(
            config, strategy, data, state, plan, training, log, saver
        )
        run_bare = _create_bare(config, strategy, inputs, network, state, plan)
        augment = _create_augment(config, strategy, data, plan)
        loop.run(until=1)
        first_step = time.perf_counter() - start
        run_bare(1)
        seconds = statistics.median(
            _seconds(lambda: run_bare(2)) for _ in range(3)
        )
        count = max(2, round(segment_seconds / (seconds / 2)))
        augment(1)
        multiply = _create_multiply(config.precision, strategy)
        multiply()
        bare, job, augmenting, rates = [], [], [], []
        for _ in range(rounds):
            stop.check()
            bare.append(_seconds(functools.partial(run_bare, count)))
            until = int(state.step.numpy()) + count
            job.append(_seconds(functools.partial(loop.run, until=until)))
            augmenting.append(_seconds(functools.partial(augment, count)))
            rates.append(multiply())
        loop.score()  # The first call compiles.
        evaluating = [_seconds(loop.score) for _ in range(_EVALUATIONS)]
        stalls = [_stall(loop, saver) for _ in range(_SAVES)]
        commits = saver.commits
    return Measured(
        plan=plan,
        replicas=strategy.num_replicas_in_sync,
        test_images=len(data.test),
        steps=count,
        first_step=first_step,
        compiling=loop.compile_seconds,
        # The difference excludes the extraction of features.
        step_tflop=training.tflop(2) - training.tflop(1),
        bare=bare,
        job=job,
        augmenting=augmenting,
        matrix_tflops=rates,
        evaluating=evaluating,
        stalls=stalls,
        commits=commits,
        input_rates=[_input_rate(config, inputs) for _ in range(rounds)],
        save_to=str(storage or "disk"),
        hardware=strategy_lib.describe_devices(),
        peak_memory=_peak_memory(),
    )


def _create_loop(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    data: Dataset,
    state: TrainState,
    plan: Plan,
    training: Training,
    log: metrics.MetricsLog,
    saver: AsyncSaver,
) -> Loop:
    """Returns the training loop without evaluations, saves and stops."""
    return Loop(
        plan=dataclasses.replace(
            plan,
            train_steps=_NEVER,
            evaluate_every_steps=0,
            checkpoint_every_steps=_NEVER,
            phases=plan.phases[:1],
        ),
        state=state,
        training=training,
        evaluation=build.create_evaluation(config, strategy, data, Workers()),
        saver=saver,
        history=History(serialization.flatten(config), data.checksum()),
        reporter=Reporter(
            log,
            Progress(_NEVER, first_step=0, silent=True),
            train_steps=_NEVER,
            global_batch_size=plan.global_batch_size,
            epoch=plan.epoch,
        ),
        supervisor=Supervisor(StopRequest()),
    )


def _create_batches(
    config: ml_collections.ConfigDict, split: Split, replicas: int
) -> tf.data.Dataset:
    return pipeline.train_batches(
        split,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        first_step=0,
        num_replicas=replicas,
    )


def _create_bare(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    inputs: Split,
    network: keras.Model,
    state: TrainState,
    plan: Plan,
) -> Callable[[int], None]:
    """Returns a function that runs steps on one batch and waits for them."""
    replicas = strategy.num_replicas_in_sync
    batches = _create_batches(config, inputs, replicas)
    same = pipeline.distribute(
        strategy, lambda own: batches.take(replicas).cache().repeat()
    )
    steps = build.create_train_steps(
        config,
        strategy,
        state,
        plan,
        network,
        plan.phases[0],
        is_augmented=False,
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
    """Returns a function that augments one batch repeatedly."""
    replicas = strategy.num_replicas_in_sync
    augment = build.create_augment(config, strategy, plan)
    with tf.device("CPU:0"):
        (batch,) = _create_batches(config, data.train, replicas).take(1)
    with tf.device(strategy.extended.worker_devices[0]):
        # An iterator leaves its batch on the host, from where each call would
        # copy it to the GPU.
        batch = tf.nest.map_structure(tf.identity, batch)

        @tf.function(autograph=False)
        def steps(count: tf.Tensor) -> tf.Tensor:
            # An int32 counter stays on the host of a GPU.
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

    The function returns the rate of one device, in 10^12 operations per second,
    as the best of three. Type and accumulation are those of the step.
    """
    device = strategy.extended.worker_devices[0]
    kind = "GPU" if "GPU" in device else "CPU"
    size, count = _MATRIX_SIZE[kind], _PRODUCTS[kind]
    with tf.device(device):
        # With this scale a product does not grow.
        matrix = tf.cast(
            tf.random.stateless_normal([size, size], [0, 1]) * size**-0.5,
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
        return 2 * size**3 * count / seconds / 1e12

    return measure


def _peak_memory() -> dict[str, int]:
    """Returns the peak memory of the host and of each GPU, in bytes."""
    # Linux counts in KiB.
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for gpu in tf.config.list_logical_devices("GPU"):
        name = gpu.name.removeprefix("/device:")
        peak[name] = tf.config.experimental.get_memory_info(name)["peak"]
    return peak


def _delete_all(checkpoints: Storage) -> None:
    for entry in checkpoints.find():
        checkpoints.delete(entry.name)


def _stall(loop: Loop, saver: AsyncSaver) -> float:
    """Returns the time for which a save blocks the loop, in seconds."""
    loop.state.step.assign_add(1)  # Each step is committed only once.
    loop.step = int(loop.state.step.numpy())
    seconds = _seconds(loop.save)
    saver.flush()
    return seconds


def _input_rate(config: ml_collections.ConfigDict, inputs: Split) -> float:
    """Returns the inputs per second of the shuffled pipeline alone."""
    batches = iter(_create_batches(config, inputs, 1))

    # With a GPU, reading a pixel would copy the batch to it.
    @tf.function(autograph=False)
    def take(count: tf.Tensor) -> tf.Tensor:
        def body(done: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, ...]:
            pixel = tf.reshape(next(batches).image, [-1])[-1]
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
