"""The table of contents: a run from its config to its result.

`train_and_evaluate` builds the rooms in the order in which an image meets
them, then goes round one loop: train some steps on the device, log, evaluate,
save. Restarting is the normal path: it goes on from the newest checkpoint.

    result = train_and_evaluate(config, pathlib.Path("runs/a"), StopRequest())
"""

import contextlib
import dataclasses
import datetime
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from job import augment as augment_lib
from job import errors
from job.augment import picture
from job.checkpoint import store
from job.checkpoint.saver import AsyncSaver
from job.config import ranges as config_lib
from job.data import dataset, pipeline, sources
from job.distribute import strategy as strategy_lib
from job.distribute.environment import Cluster
from job.distribute.workers import Peers, SharedSaver
from job.model import batches, features, flops, spec, vgg, weights
from job.model import resize as resize_lib
from job.output import metrics, predictions, results
from job.output.progress import Progress
from job.storage import Storage, files
from job.supervision.preemption import StopRequest
from job.supervision.watchdog import LONG_SECONDS, Watchdog
from job.training import phases, step, update
from job.training import plan as plan_lib
from job.training.evaluate import Evaluator
from job.training.history import BEST_BY, History
from job.training.loop import Loop
from job.training.plan import Plan
from job.training.state import TrainState, load_evaluated


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    stop: StopRequest,
    watchdog: Watchdog | None = None,
    *,
    storage: Storage | None = None,
    command: dict[str, Any] | None = None,
    cluster: Cluster | None = None,
    publish: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains until the last step, from wherever an earlier start got to.

    Args:
      config: every field of `configs/default.py`, checked by `config.check`.
      workdir: folder for all that is written; created if need be.
      stop: polled in each phase: data, training, evaluation.
      watchdog: gets a beat wherever `stop` is polled; None: nobody watches.
      storage: for checkpoints; None: a folder in `workdir`.
      command: what the command line named: `config`, the file; `flags`, fields
        set on it; `replaced`, what the file has there; `workdir`. Kept for the
        report.
      cluster: the workers, each of which calls this; None: there is one. Only
        the chief's checkpoints and `workdir` count: the others' is scratch.
      publish: called by the chief when all is written, before the other
        workers may end.

    Returns:
      What `result.json` holds.

    Raises:
      JobError: see `errors`; all that was committed stays.
    """
    fields = config_lib.flatten(config)
    watchdog = watchdog or Watchdog(0.0)

    def poll() -> None:
        stop.check()
        watchdog.beat("data", seconds=LONG_SECONDS)

    poll()
    if cluster:
        cluster.wait_for_others(poll)
    strategy = create_strategy(config, cluster)
    if cluster:
        stop.listen()  # TensorFlow has taken SIGTERM over.
    peers = Peers(strategy, cluster)
    data = load_data(config, poll)
    poll()
    watchdog.beat("build", seconds=LONG_SECONDS)
    plan = create_plan(config, len(data.train))
    for doubt in doubts(config, plan):
        logging.warning("%s", doubt)
    state = create_state(config, strategy, num_classes=data.num_classes)
    log_cost(config, state.model, plan)
    evaluator = create_evaluator(
        config, strategy, data.test, peers, num_classes=data.num_classes
    )
    checkpoints = store.CheckpointStore(
        storage or workdir / "checkpoints",
        keep=config.checkpoint.keep,
        best_by=BEST_BY if config.data.validation_fraction else "",
    )
    workdir.mkdir(parents=True, exist_ok=True)
    history = (
        restore_or_initialize(checkpoints, state, fields, data.checksum())
        if peers.is_chief
        else History(fields, data.checksum())
    )
    history = follow_chief(peers, history)
    if history.step > plan.train_steps:
        raise errors.ResumeError(
            f"the checkpoint is of step {history.step}, beyond the"
            f" {plan.train_steps} steps that config.epochs and config.steps ask"
            " for; choose another workdir for a shorter run"
        )
    history.begin(strategy.num_replicas_in_sync, plan.train_steps)
    files.write_json(workdir / config_lib.FILE, config_lib.to_json(config))
    files.write_json(workdir / config_lib.COMMAND_FILE, command or {})
    if history.step < plan.train_steps:
        # Of a run that was shorter: this one has no result yet.
        for name in (results.FILE, results.PAGE, predictions.FILE):
            (workdir / name).unlink(missing_ok=True)
    if history.record is not None:
        metrics.put_back(workdir, history.record)
    if peers.is_chief and not history.step:
        state.load_weights(first_weights(config))
    if peers.count > 1:
        state.restore(peers.broadcast_arrays(state.snapshot()))
    picture.write(
        workdir / picture.FILE,
        data.train.images,
        augment_settings(config),
        seed=config.seed,
    )
    train_split, network = prepare_inputs(config, data.train, state, plan, poll)

    def tflop(steps: int) -> float:
        return train_tflop(
            state.model,
            plan,
            steps,
            num_features=0 if network is state.model else len(train_split),
        )

    log = metrics.MetricsLog(
        workdir,
        first_step=history.step,
        hparams=config_lib.changed(fields),
        picture=workdir / picture.FILE,
    )
    progress = Progress(plan.train_steps, first_step=history.step)
    committed_step = history.step if history.resumes else None
    saver = create_saver(checkpoints, peers, committed_step, stop)
    loop = Loop(
        plan=plan,
        state=state,
        train_steps=functools.partial(
            create_train_steps, config, strategy, state, plan, network
        ),
        make_batches=lambda first_step: create_batches(
            config, strategy, train_split, first_step=first_step
        ),
        evaluator=evaluator,
        split="validation" if config.data.validation_fraction else "test",
        saver=saver,
        history=history,
        log=log,
        progress=progress,
        stop=stop,
        watchdog=watchdog,
        on_nonfinite=config.checkpoint.on_nonfinite,
        tta=config.evaluate.tta,
        tflop=tflop,
        peers=peers,
    )
    try:
        with saver:
            loop.run(until=plan.train_steps)
            scores = loop.final_scores()
            loop.finish(plan.train_steps)
    finally:
        progress.close()
        log.close()
    log.settle()
    watchdog.beat("report", plan.train_steps, seconds=LONG_SECONDS)
    with unneeded("what was predicted of each image"):
        predictions.predict(scores.logits, data.test, data.class_names).save(
            workdir / predictions.FILE
        )
    result = results.summarize(
        fields,
        scores,
        lines=metrics.read(workdir),
        split=loop.split,
        train_steps=plan.train_steps,
        train_seconds=history.train_seconds,
        compile_seconds=history.compile_seconds,
        params=state.model.count_params(),
        train_tflop=tflop(plan.train_steps),
        replicas=strategy.num_replicas_in_sync,
        data_source=data.source,
        resumes=history.resumes,
        rollbacks=len(history.rollbacks),
        planned_steps=history.planned_steps(),
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    files.write_json(workdir / results.FILE, result)
    watchdog.beat("end", plan.train_steps, seconds=LONG_SECONDS)
    if peers.is_chief:
        write_page(workdir, checkpoints, command)
        publish()
    peers.part()
    return result


def evaluate_checkpoint(
    workdir: pathlib.Path,
    poll: Callable[[], None] = lambda: None,
    *,
    storage: Storage | None = None,
    require_gpus: int = 0,
) -> dict[str, Any]:
    """Scores the newest checkpoint of a run, finished or not; writes nothing.

    On what is here, whatever the run was trained on: no score depends on that.

    Args:
      workdir: of the run; its config.json says which data and network.
      poll: called between two batches; what it raises ends it.
      storage: of its checkpoints; None: a folder in `workdir`.
      require_gpus: fewest GPUs to score on; 0: a CPU will do.

    Returns:
      The step, and the fields of `evaluate.Scores` but the logits.

    Raises:
      ConfigError: there is no run in `workdir`.
      ResumeError: it has no usable checkpoint.
    """
    config = config_lib.load(workdir)
    strategy = strategy_lib.create_strategy(
        logical_devices=config.distribute.logical_devices,
        require_gpus=require_gpus,
    )
    data = load_data(config, poll)
    state = create_state(config, strategy, num_classes=data.num_classes)
    history = restore_or_initialize(
        store.CheckpointStore(storage or workdir / "checkpoints"),
        state,
        config_lib.flatten(config),
        data.checksum(),
        quarantine=False,
    )
    if not history.step:
        raise errors.ResumeError(f"{workdir} has no checkpoint yet")
    evaluator = create_evaluator(
        config, strategy, data.test, num_classes=data.num_classes
    )
    scores = evaluator(state.evaluated(), tta=True, poll=poll)
    figures = dataclasses.asdict(scores)
    del figures["logits"]
    return {"step": history.step, **figures}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run has learnt so far.

    Attributes:
      config: of the run.
      network: in float32, with the weights that an evaluation scores.
      resize: what is done to images before.
      class_names: Names of the classes, in the order of the labels.
      step: of the checkpoint.
      data_crc32c: of the training images.
      result: what result.json holds; None: the run is not finished.
    """

    config: ml_collections.ConfigDict
    network: keras.Model
    resize: resize_lib.Resize
    class_names: tuple[str, ...]
    step: int
    data_crc32c: str
    result: dict[str, Any] | None


def load_trained(
    workdir: pathlib.Path, *, storage: Storage | None = None, name: str = ""
) -> Trained:
    """Returns the network of a run's newest checkpoint, without its images.

    Args:
      workdir: of the run, finished or not.
      storage: of its checkpoints; None: a folder in `workdir`.
      name: what people call the workdir; "": its path.

    Raises:
      ConfigError: there is no run in `workdir`.
      ResumeError: it has no usable checkpoint.
    """
    config = config_lib.load(workdir, name)
    fields = config_lib.flatten(config)
    checkpoints = store.CheckpointStore(storage or workdir / "checkpoints")
    found = checkpoints.restore_newest(quarantine=False)
    if found is None:
        raise errors.ResumeError(f"{name or workdir} has no checkpoint yet")
    saved, tensors = found
    if changed := config_lib.differences(saved.run.get("config", {}), fields):
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} is of another run than"
            f" {config_lib.FILE} ({'; '.join(changed)})"
        )
    strategy_lib.create_strategy()  # Memory as it is needed, and no TF32.
    class_names = sources.class_names(config.data.source)
    network = create_model(config, "float32", num_classes=len(class_names))
    try:
        load_evaluated(network, tensors)
    except KeyError as error:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} does not fit: {error.args[0]}"
        ) from None
    result = results.finished(workdir, fields)
    if result is None:
        logging.warning(
            "the run is not finished: these are the weights of step %d",
            saved.step,
        )
    return Trained(
        config=config,
        network=network,
        resize=create_resize(config),
        class_names=class_names,
        step=saved.step,
        data_crc32c=str(saved.run.get("data_crc32c", "")),
        result=result,
    )


def doubts(config: ml_collections.ConfigDict, plan: Plan) -> Iterator[str]:
    """Says, a line each, what a config wants only after its run has ended."""
    steps = plan.train_steps
    warmup = config.optimizer.warmup_epochs
    if config.optimizer.schedule != "constant" and warmup >= plan.epoch(steps):
        yield (
            f"config.optimizer.warmup_epochs={warmup:g} is as long as the run"
            f" or longer, {plan.epoch(steps):g} epochs: its learning rate never"
            " falls, which costs some points; a fifth of the run is usual"
        )
    for phase in plan.phases:
        if phase.first_step >= steps:
            yield (
                f"the run ends with step {steps}, before what is to begin at"
                f" step {phase.first_step}: {phase.input_size} px, training"
                f" {', '.join(sorted(phase.trainable_blocks))}"
            )


def create_plan(config: ml_collections.ConfigDict, num_images: int) -> Plan:
    """Returns the plan of a run on `num_images` training images."""
    return plan_lib.create_plan(
        num_images=num_images,
        global_batch_size=config.global_batch_size,
        epochs=config.epochs,
        steps=config.steps,
        peak_learning_rate=config.optimizer.peak_learning_rate,
        schedule=config.optimizer.schedule,
        warmup_epochs=config.optimizer.warmup_epochs,
        unfreeze_epochs=config.transfer.unfreeze_epochs.to_dict(),
        layer_decay=config.transfer.layer_decay,
        unfreeze_warmup_epochs=config.transfer.warmup_epochs,
        input_size=config.model.input_size,
        progressive_sizes=config.model.progressive_sizes,
        progressive_epochs=config.model.progressive_epochs,
        log_every_steps=config.log_every_steps,
        evaluate_every_epochs=config.evaluate.every_epochs,
        checkpoint_every_steps=config.checkpoint.every_steps,
        steps_per_call=config.steps_per_loop,
    )


def create_strategy(
    config: ml_collections.ConfigDict, cluster: Cluster | None = None
) -> tf.distribute.Strategy:
    """Returns the strategy, and checks the batch sizes against its replicas."""
    strategy = strategy_lib.create_strategy(
        logical_devices=config.distribute.logical_devices,
        require_gpus=config.distribute.require_gpus,
        all_reduce=config.distribute.all_reduce,
        cluster=cluster,
    )
    replicas = strategy.num_replicas_in_sync
    config_lib.check_replicas(config_lib.flatten(config), replicas)
    logging.info(
        "%d replica(s) on %s", replicas, strategy.extended.worker_devices
    )
    return strategy


def load_data(
    config: ml_collections.ConfigDict, poll: Callable[[], None] = lambda: None
) -> dataset.Dataset:
    """Returns the images; the held-out slice takes the test images' place.

    Args:
      config: of the run.
      poll: called between two files or batches; what it raises ends it.
    """
    data = sources.load(
        config.data.source,
        config.data.dir,
        archive_sha256=config.data.archive_sha256,
        synthetic_train_images=config.data.synthetic_train_images,
        synthetic_test_images=config.data.synthetic_test_images,
        poll=poll,
    )
    data = dataset.hold_out(data, config.data.validation_fraction)
    data = dataclasses.replace(
        data,
        train=dataset.limit(data.train, config.data.train_images),
        test=dataset.limit(data.test, config.data.test_images),
    )
    logging.info(
        "%s: %d images to train on, %d to score",
        data.source,
        len(data.train),
        len(data.test),
    )
    return data


def create_model(
    config: ml_collections.ConfigDict,
    precision: str,
    *,
    num_classes: int,
    dropout: float = 0.0,
) -> keras.Model:
    """Returns the network of a config; call it under the strategy's scope."""
    return vgg.vgg16(
        num_classes=num_classes,
        width=config.model.width,
        stem_filters=config.model.stem_filters,
        pooling=config.model.pooling,
        batch_norm=config.model.batch_norm,
        batch_norm_momentum=config.model.batch_norm_momentum,
        batch_norm_epsilon=config.model.batch_norm_epsilon,
        sync_batch_norm=config.distribute.sync_batch_norm,
        init=config.model.init,
        preprocessing=preprocessing(config),
        input_size=config.model.input_size,
        pool_padding=(
            "same"
            if any(size % 32 for size in config.model.progressive_sizes)
            else "valid"
        ),
        head_pooling=config.model.head_pooling,
        head_units=config.model.head_units,
        dropout=dropout,
        precision=precision,
        for_cpu=not tf.config.list_logical_devices("GPU"),
        seed=config.seed,
    )


def preprocessing(config: ml_collections.ConfigDict) -> str:
    """Returns what is done to pixels first; see `vgg.PREPROCESSING`."""
    if config.model.preprocessing != "auto":
        return config.model.preprocessing
    return "caffe" if config.model.weights else "standardize"


def first_weights(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Returns the weights that a run does not begin with at random, if any.

    Args:
      config: of the run.

    Returns:
      float32 arrays by path; see `TrainState.load_weights`.

    Raises:
      DataError: the file that the config names is no such file.
    """
    return weights.load(config.model.weights) if config.model.weights else {}


def create_state(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    *,
    num_classes: int,
) -> TrainState:
    """Returns the variables of a run that has not begun."""
    with strategy.scope():
        return TrainState(
            create_model(
                config,
                config.precision,
                num_classes=num_classes,
                dropout=config.model.dropout,
            ),
            averaging=bool(config.optimizer.ema_decay),
            loss_scaling=config.precision == "float16",
            adam=config.optimizer.name == "adam",
        )


def log_cost(
    config: ml_collections.ConfigDict, network: keras.Model, plan: Plan
) -> None:
    """Logs what an image costs in each phase: forward, and with backward."""
    for phase in plan.phases:
        cost = flops.image_gflop(
            network, phase.input_size, phase.trainable_blocks
        )
        logging.info(
            "planned from step %d: %d px, %.3f GFLOP an image forward, %.3f"
            " trained",
            phase.first_step,
            phase.input_size,
            cost.forward,
            cost.train,
        )


def train_tflop(
    network: keras.Model, plan: Plan, steps: int, *, num_features: int = 0
) -> float:
    """Returns the cost of the first steps of a run, in 10^12 operations.

    Args:
      network: The whole network.
      plan: Plan of the run.
      steps: Number of steps.
      num_features: Number of images whose features the head is trained on. If
        0, the network is trained on images.
    """
    if num_features:
        return flops.features_train_tflop(
            network,
            size=plan.phases[-1].input_size,
            num_images=num_features,
            train_steps=steps,
            global_batch_size=plan.global_batch_size,
        )
    return flops.train_tflop(
        network,
        [
            (count, phase.input_size, phase.trainable_blocks)
            for count, phase in phases.phase_steps(plan.phases, steps)
        ],
        global_batch_size=plan.global_batch_size,
    )


def prepare_inputs(
    config: ml_collections.ConfigDict,
    split: dataset.Split,
    state: TrainState,
    plan: Plan,
    poll: Callable[[], None],
) -> tuple[dataset.Split, keras.Model]:
    """Returns what is trained on, and the network that it goes through.

    Those are the images and the whole network; but where the convolutions
    never train and no image is changed before them, the convolutions' output,
    computed here once, and the head.
    """
    if not uses_features(config, plan):
        return split, state.model
    base, head = vgg.split_base_and_head(state.model)
    logging.info("the base is frozen: its features are computed once")
    resize = create_resize(config)
    batch = batches.batch_size_for(config.model.input_size, at_32=500)
    return features.extract(
        base, resize, split, batch_size=batch, poll=poll
    ), head


def uses_features(config: ml_collections.ConfigDict, plan: Plan) -> bool:
    """Says whether the base gives the same features every time."""
    frozen = all(p.trainable_blocks == {spec.HEAD} for p in plan.phases)
    one_size = len({p.input_size for p in plan.phases}) == 1
    return frozen and one_size and not augments(config)


def augments(config: ml_collections.ConfigDict) -> bool:
    """Says whether an image is shown in more than one way."""
    strengths = config.augment.to_dict()
    del strengths["preset"], strengths["flip"], strengths["fill"]
    return config.augment.flip != "none" or any(strengths.values())


def create_resize(
    config: ml_collections.ConfigDict, size: int = 0
) -> resize_lib.Resize:
    """Returns what scales images, to `size` or else the config's."""
    return resize_lib.make_resize(
        size or config.model.input_size, method=config.model.upsampling
    )


def create_train_steps(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    state: TrainState,
    plan: Plan,
    network: keras.Model,
    phase: phases.Phase,
) -> step.TrainSteps:
    """Returns the compiled inner loop of a phase, augmentation included."""
    on_features = network is not state.model
    return step.make_train_steps(
        strategy,
        state,
        take_images if on_features else create_augment(config, strategy, plan),
        optimizer_settings(config, plan),
        network=network,
        resize=tf.identity
        if on_features
        else create_resize(config, phase.input_size),
        trainable_blocks=phase.trainable_blocks,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        jit_compile=use_jit(config, strategy),
    )


def take_images(
    batch: pipeline.TrainBatch, step: tf.Tensor, replica: tf.Tensor
) -> augment_lib.Augmented:
    """Augments nothing."""
    del step, replica
    return augment_lib.Augmented(batch.image, None)


def create_augment(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    plan: Plan,
) -> augment_lib.Augment:
    """Returns what changes a replica's batch before the network sees it."""
    return augment_lib.make_augment(
        augment_settings(config),
        seed=config.seed,
        num_images=plan.num_images,
        global_batch_size=config.global_batch_size,
        num_replicas=strategy.num_replicas_in_sync,
        jit_compile=use_jit(config, strategy),
    )


def augment_settings(
    config: ml_collections.ConfigDict,
) -> augment_lib.AugmentSettings:
    """Returns what is done to an image."""
    fields = config.augment.to_dict()
    del fields["preset"]  # Its fields are set: see `config.use_preset`.
    return augment_lib.AugmentSettings(**fields)


def optimizer_settings(
    config: ml_collections.ConfigDict, plan: Plan
) -> update.OptimizerSettings:
    """Returns what an update does."""
    return update.OptimizerSettings(
        name=config.optimizer.name,
        groups=plan.groups,
        learning_rate=plan.learning_rate,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        label_smoothing=config.optimizer.label_smoothing,
        ema_decay=config.optimizer.ema_decay,
        clip_norm=config.optimizer.clip_norm,
    )


def use_jit(
    config: ml_collections.ConfigDict, strategy: tf.distribute.Strategy
) -> bool:
    """Says whether XLA compiles the step: on GPUs; it is slow on CPUs."""
    if config.jit_compile == "auto":
        devices = strategy.extended.worker_devices
        on_gpu = all("GPU" in device for device in devices)
        return on_gpu and not config.distribute.sync_batch_norm
    return config.jit_compile == "on"


def create_batches(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    split: dataset.Split,
    *,
    first_step: int,
) -> Iterator[pipeline.TrainBatch]:
    """Returns an endless iterator over `TrainBatch`, for `strategy`."""
    return pipeline.distribute(
        strategy,
        lambda own: pipeline.train_batches(
            split,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            first_step=first_step,
            num_replicas=strategy.num_replicas_in_sync,
            own_replicas=own,
        ),
    )


def create_evaluator(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    split: dataset.Split,
    peers: Peers | None = None,
    *,
    num_classes: int,
) -> Evaluator:
    """Returns what scores `split`, in float32, whatever it is trained in."""
    with strategy.scope():
        network = create_model(config, "float32", num_classes=num_classes)
    replicas = strategy.num_replicas_in_sync
    each = -(-config.evaluate.global_batch_size // replicas)
    return Evaluator(
        strategy,
        split,
        network,
        create_resize(config),
        global_batch_size=each * replicas,
        broadcast_batch_count=(peers or Peers()).chiefs,
    )


def create_saver(
    checkpoints: store.CheckpointStore,
    peers: Peers,
    committed_step: int | None,
    stop: StopRequest,
) -> AsyncSaver | SharedSaver:
    """Returns what saves; of several workers, the chief alone does.

    Args:
      checkpoints: where; only the chief's is looked at.
      peers: the workers.
      committed_step: of the checkpoint that the run goes on from, if any.
      stop: is told of each checkpoint.
    """
    saver = None
    if peers.is_chief:
        saver = AsyncSaver(
            checkpoints,
            committed_step=committed_step,
            on_commit=stop.note_saved,
        )
        if peers.count == 1:
            return saver
    return SharedSaver(peers, saver, committed_step=committed_step)


def follow_chief(peers: Peers, history: History) -> History:
    """Returns the chief's history, for a run that is the same on all workers.

    Args:
      peers: the workers.
      history: of this one; what it says of config and data is compared.

    Raises:
      ConfigError: this worker has other fields or images than the chief.
    """
    chiefs = peers.broadcast_json(dataclasses.asdict(history))
    changed = config_lib.differences(chiefs["fields"], history.fields)
    if chiefs["data_crc32c"] != history.data_crc32c:
        changed.append("the training images")
    if changed:
        raise errors.ConfigError(
            "this worker has another config or other data than the chief"
            f" ({'; '.join(changed)}); start all with the same command line"
        )
    chiefs["fields"] = history.fields
    return History(**chiefs)


def write_page(
    workdir: pathlib.Path,
    checkpoints: store.CheckpointStore,
    command: dict[str, Any] | None,
) -> None:
    """Writes `report.html`; a training that is done does not fail for it."""
    with unneeded("report.html"):
        from job.report import page  # Draws: a second to import.

        page.write(
            workdir, checkpoints, name=(command or {}).get("workdir", "")
        )


@contextlib.contextmanager
def unneeded(what: str) -> Iterator[None]:
    """Lets a finished training end well without something, with a warning."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        logging.warning(
            "%s was not written (%s: %s)", what, type(error).__name__, reason
        )


@contextlib.contextmanager
def memory_explained(fields: dict[str, Any]) -> Iterator[None]:
    """Turns a lack of memory, device's or host's, into OutOfMemoryError.

    Args:
      fields: the flattened config; those that matter are named.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        what = str(error).strip().partition("\n")[0][:200]
        raise errors.OutOfMemoryError(
            f"out of memory ({what}); what helps: a smaller"
            " --config.global_batch_size (now"
            f" {fields['global_batch_size']}),"
            " --config.evaluate.global_batch_size (now"
            f" {fields['evaluate.global_batch_size']}),"
            f" --config.model.width (now {fields['model.width']}) or"
            f" --config.model.input_size (now {fields['model.input_size']}), or"
            " more replicas"
        ) from None


def restore_or_initialize(
    checkpoints: store.CheckpointStore,
    state: TrainState,
    fields: dict[str, Any],
    data_crc32c: str,
    *,
    quarantine: bool = True,
) -> History:
    """Sets `state` to the newest usable checkpoint, if there ever was one.

    Raises:
      ResumeError: none is usable, or it is of a run with another result.
    """
    found = checkpoints.restore_newest(quarantine=quarantine)
    if found is None:
        return History(fields, data_crc32c)
    saved, tensors = found
    if not saved.run.keys() >= History.KEYS:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} says too little of its run"
        )
    changed = config_lib.differences(saved.run["config"], fields)
    if saved.run["data_crc32c"] != data_crc32c:
        changed.append("the training images")
    if changed:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} is of another run"
            f" ({'; '.join(changed)}); choose another workdir, or change that"
            " back"
        )
    try:
        state.restore(tensors)
    except ValueError as error:
        raise errors.ResumeError(
            f"the checkpoint of step {saved.step} does not fit: {error}"
        ) from None
    logging.info("the checkpoint of step %d is restored", saved.step)
    return History(
        fields,
        data_crc32c,
        step=saved.step,
        resumes=saved.run["resumes"] + 1,
        train_seconds=saved.run["train_seconds"],
        compile_seconds=saved.run["compile_seconds"],
        rollbacks=saved.run["rollbacks"],
        starts=saved.run.get("starts", []),
        record=saved.run.get("record"),
    )
