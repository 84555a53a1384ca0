"""Factories of a run's objects, which take its config.

The modules below this one take plain arguments instead of a ConfigDict.

    strategy = create_strategy(config)
    data = load_data(config)
    plan = create_plan(config, len(data.train))
    state = create_state(config, strategy, num_classes=data.num_classes)
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from job import augment as augment_lib
from job.augment.operations import Operation
from job.checkpoint import store
from job.config import augmentation, ranges, serialization
from job.data import dataset, pipeline, sources
from job.distribute import environment
from job.distribute import strategy as strategy_lib
from job.distribute.environment import Cluster
from job.distribute.workers import Workers
from job.model import batches, features, flops, spec, vgg, weights
from job.model import resize as resize_lib
from job.output import metrics
from job.output.progress import Progress
from job.output.reporter import Reporter
from job.storage import Storage
from job.storage.workdir import AUGMENTATION
from job.training import phases, step, update
from job.training import plan as plan_lib
from job.training.evaluate import Evaluator
from job.training.history import BEST_BY
from job.training.loop import Evaluation, Training
from job.training.plan import Plan
from job.training.state import TrainState


def create_strategy(
    config: ml_collections.ConfigDict, cluster: Cluster | None = None
) -> tf.distribute.Strategy:
    """Returns the strategy, with the batch size checked against its replicas.

    Args:
      config: Config of the run.
      cluster: Addresses of the workers. If None, there is one worker.

    Raises:
      DeviceError: The machine has fewer GPUs than required.
      ConfigError: The global batch cannot be divided among the replicas.
    """
    strategy = strategy_lib.create_strategy(
        logical_devices=config.distribute.logical_devices,
        require_gpus=max(
            config.distribute.require_gpus,
            environment.required_gpus(os.environ),
        ),
        all_reduce=config.distribute.all_reduce,
        cluster=cluster,
        precision=config.precision,
        deterministic=config.deterministic,
    )
    replicas = strategy.num_replicas_in_sync
    ranges.check_replicas(serialization.flatten(config), replicas)
    logging.info(
        "Using %d replica(s) on %s",
        replicas,
        ", ".join(strategy.extended.worker_devices),
    )
    return strategy


def load_data(
    config: ml_collections.ConfigDict, poll: Callable[[], None] = lambda: None
) -> dataset.Dataset:
    """Returns the data set, with a held-out slice for its test split if set.

    Args:
      config: Config of the run.
      poll: Function called between two files or batches. Its exceptions
        propagate.

    Raises:
      DataError: The images are absent or damaged.
    """
    data = sources.load(
        config.data.source,
        config.data.dir,
        archive_sha256=config.data.archive_sha256,
        synthetic_train_images=config.data.synthetic_train_images,
        synthetic_test_images=config.data.synthetic_test_images,
        poll=poll,
    )
    data = dataset.hold_out(
        data, config.data.validation_fraction, config.data.validation_fold
    )
    data = dataclasses.replace(
        data,
        train=dataset.limit(data.train, config.data.train_images),
        test=dataset.limit(data.test, config.data.test_images),
    )
    logging.info(
        "Loaded %s data: %d training and %d evaluation images",
        data.source,
        len(data.train),
        len(data.test),
    )
    return data


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


def create_model(
    config: ml_collections.ConfigDict,
    precision: str,
    *,
    num_classes: int,
    dropout: float = 0.0,
    jit_compile: bool = False,
) -> keras.Model:
    """Returns the network, created in the current strategy's scope.

    Args:
      config: Config of the run.
      precision: Compute type, one of float32, bfloat16 or float16.
      num_classes: Number of classes.
      dropout: Dropout rate.
      jit_compile: Whether XLA compiles the network.
    """
    any_size = any(size % 32 for size in config.model.progressive_sizes)
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
        pool_padding="same" if any_size else "valid",
        head_pooling=config.model.head_pooling,
        head_units=config.model.head_units,
        dropout=dropout,
        precision=precision,
        for_cpu=not jit_compile and not tf.config.list_logical_devices("GPU"),
        for_xla=jit_compile,
        seed=config.seed,
    )


def preprocessing(config: ml_collections.ConfigDict) -> str:
    """Returns the name of the preprocessing; see `vgg.PREPROCESSING`."""
    if config.model.preprocessing != "auto":
        return config.model.preprocessing
    return "caffe" if config.model.weights else "standardize"


def first_weights(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Returns the pretrained weights that a run starts from, if any.

    Returns:
      Weights by variable path, float32; see `TrainState.load_weights`.

    Raises:
      DataError: The file that the config names does not contain VGG16 weights.
    """
    return weights.load(config.model.weights) if config.model.weights else {}


def create_state(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    *,
    num_classes: int,
) -> TrainState:
    """Returns the variables of a run at step 0."""
    with strategy.scope():
        return TrainState(
            create_model(
                config,
                config.precision,
                num_classes=num_classes,
                dropout=config.model.dropout,
                jit_compile=uses_jit(config, strategy),
            ),
            averaging=bool(config.optimizer.ema_decay),
            loss_scaling=config.precision == "float16",
            adam=config.optimizer.name == "adam",
        )


def prepare_inputs(
    config: ml_collections.ConfigDict,
    split: dataset.Split,
    state: TrainState,
    plan: Plan,
    poll: Callable[[], None],
) -> tuple[dataset.Split, keras.Model]:
    """Returns the training inputs and the network that takes them.

    These are the images and the complete network. If the convolutions stay
    frozen and no image is augmented, they are the features of the images,
    computed once, and the head.

    Args:
      config: Config of the run.
      split: Training images.
      state: Variables of the run, restored or initialized.
      plan: Plan of the run.
      poll: Function called between two batches. Its exceptions propagate.
    """
    if not uses_features(config, plan):
        return split, state.model
    base, head = vgg.split_base_and_head(state.model)
    logging.info("Computing the features of the frozen base")
    resize = create_resize(config)
    batch = batches.batch_size_for(config.model.input_size, at_32=500)
    return features.extract(
        base, resize, split, batch_size=batch, poll=poll
    ), head


def uses_features(config: ml_collections.ConfigDict, plan: Plan) -> bool:
    """Returns whether the features of an image stay constant in training."""
    frozen = all(p.trainable_blocks == {spec.HEAD} for p in plan.phases)
    one_size = len({p.input_size for p in plan.phases}) == 1
    return (
        frozen
        and one_size
        and not augmentation.is_enabled(config.augment.to_dict())
    )


def create_resize(
    config: ml_collections.ConfigDict, size: int = 0
) -> resize_lib.Resize:
    """Returns the resize layer to `size` pixels, or to `model.input_size`."""
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
    *,
    is_augmented: bool = True,
) -> step.TrainSteps:
    """Returns the compiled train steps of a phase.

    Args:
      config: Config of the run.
      strategy: Strategy whose replicas run a step.
      state: Variables of the run.
      plan: Plan of the run.
      network: Network to train, `state.model` or its head if the inputs are
        features.
      phase: Phase of the run.
      is_augmented: Whether the steps augment their images.
    """
    on_features = network is not state.model
    is_augmented = is_augmented and not on_features
    return step.make_train_steps(
        strategy,
        state,
        create_augment(config, strategy, plan) if is_augmented else keep_images,
        optimizer_settings(config, plan),
        network=network,
        resize=tf.identity
        if on_features
        else create_resize(config, phase.input_size),
        trainable_blocks=phase.trainable_blocks,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        jit_compile=uses_jit(config, strategy),
    )


def keep_images(
    batch: pipeline.TrainBatch, step: tf.Tensor, replica: tf.Tensor
) -> augment_lib.Augmented:
    """Returns the images of a batch unchanged."""
    del step, replica
    return augment_lib.Augmented(batch.image, None)


def create_augment(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    plan: Plan,
) -> augment_lib.Augment:
    """Returns the augmentation of a replica's batch."""
    return augment_lib.make_augment(
        create_operations(config),
        seed=config.seed,
        num_images=plan.num_images,
        global_batch_size=config.global_batch_size,
        num_replicas=strategy.num_replicas_in_sync,
        jit_compile=uses_jit(config, strategy),
    )


def create_operations(
    config: ml_collections.ConfigDict,
) -> tuple[Operation, ...]:
    """Returns the enabled operations of the augmentation."""
    fields = config.augment.to_dict()
    del fields["preset"]  # `augmentation.use_preset` has expanded it.
    return augment_lib.create_operations(fields)


def optimizer_settings(
    config: ml_collections.ConfigDict, plan: Plan
) -> update.OptimizerSettings:
    """Returns the optimizer settings of a run."""
    return update.OptimizerSettings(
        name=config.optimizer.name,
        groups=plan.groups,
        learning_rate=plan.learning_rate,
        muon_ratio=config.optimizer.muon_ratio,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        label_smoothing=config.optimizer.label_smoothing,
        ema_decay=config.optimizer.ema_decay,
        clip_norm=config.optimizer.clip_norm,
    )


def uses_jit(
    config: ml_collections.ConfigDict, strategy: tf.distribute.Strategy
) -> bool:
    """Returns whether XLA compiles the step.

    With auto, it does so on GPUs only, because its code is slow on CPUs.
    """
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
    """Returns an endless iterator over `TrainBatch`, from `first_step` on."""
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


def create_training(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    state: TrainState,
    plan: Plan,
    inputs: dataset.Split,
    network: keras.Model,
) -> Training:
    """Returns the compiled steps of a run and their input.

    Args:
      config: Config of the run.
      strategy: Strategy whose replicas run a step.
      state: Variables of the run, restored or initialized.
      plan: Plan of the run.
      inputs: Training inputs; see `prepare_inputs`.
      network: Network that takes them.
    """
    return Training(
        make_train_steps=functools.partial(
            create_train_steps, config, strategy, state, plan, network
        ),
        make_batches=lambda first_step: create_batches(
            config, strategy, inputs, first_step=first_step
        ),
        tflop=lambda steps: phases.train_tflop(
            state.model,
            plan.phases,
            train_steps=steps,
            global_batch_size=plan.global_batch_size,
            num_features=0 if network is state.model else len(inputs),
            # Each replica updates its own copy of the weights.
            update_gflop=flops.muon_gflop(state.model)
            * strategy.num_replicas_in_sync
            if config.optimizer.muon_ratio
            else 0.0,
        ),
    )


def initialize_state(
    config: ml_collections.ConfigDict,
    state: TrainState,
    workers: Workers,
    *,
    is_new: bool,
) -> None:
    """Loads pretrained weights into a new run and copies the chief's state.

    Args:
      config: Config of the run.
      state: Variables of the run.
      workers: Workers of the run.
      is_new: Whether no checkpoint was restored.
    """
    if workers.is_chief and is_new:
        state.load_weights(first_weights(config))
    if workers.count > 1:
        state.restore(workers.broadcast_arrays(state.snapshot()))


def create_evaluator(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    split: dataset.Split,
    workers: Workers | None = None,
    *,
    num_classes: int,
) -> Evaluator:
    """Returns the evaluator of a split, which computes in float32.

    Args:
      config: Config of the run.
      strategy: Strategy whose replicas evaluate the images.
      split: Images to evaluate.
      workers: Workers of the run. If None, there is one.
      num_classes: Number of classes.
    """
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
        broadcast_batch_count=(workers or Workers()).broadcast_int,
    )


def create_evaluation(
    config: ml_collections.ConfigDict,
    strategy: tf.distribute.Strategy,
    data: dataset.Dataset,
    workers: Workers,
) -> Evaluation:
    """Returns the evaluation of a run on its test images or held-out slice."""
    return Evaluation(
        create_evaluator(
            config, strategy, data.test, workers, num_classes=data.num_classes
        ),
        split=evaluated_split(config),
        tta=config.evaluate.tta,
    )


def evaluated_split(config: ml_collections.ConfigDict) -> str:
    """Returns the name of the split that a run is evaluated on."""
    return "validation" if config.data.validation_fraction else "test"


def create_reporter(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    plan: Plan,
    training: Training,
    *,
    first_step: int,
) -> Reporter:
    """Returns the metrics log and progress display of a run.

    Args:
      config: Config of the run.
      workdir: Folder of the run.
      plan: Plan of the run.
      training: Compiled steps, for their cost.
      first_step: Number of completed steps at the start of this attempt.
    """
    return Reporter(
        metrics.MetricsLog(
            workdir,
            first_step=first_step,
            hparams=serialization.changed(serialization.flatten(config)),
            picture=workdir / AUGMENTATION,
        ),
        Progress(plan.train_steps, first_step=first_step),
        train_steps=plan.train_steps,
        global_batch_size=plan.global_batch_size,
        epoch=plan.epoch,
        tflop=training.tflop,
    )


def create_checkpoints(
    config: ml_collections.ConfigDict, storage: Storage
) -> store.CheckpointStore:
    """Returns the checkpoint store of a run."""
    return store.CheckpointStore(
        storage,
        keep=config.checkpoint.keep,
        best_by=BEST_BY if config.data.validation_fraction else "",
    )
