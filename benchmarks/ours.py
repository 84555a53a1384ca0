"""The job's own step, with its input pipeline and its augmentation."""

import os

import tensorflow as tf

from benchmarks import turns
from configs import stem32
from job import train


def make(settings):
    config = stem32.get_config("8ep").unlock()
    config.data.source = "synthetic"
    config.model.width = settings.width
    config.model.stem_filters = 0
    config.global_batch_size = settings.batch
    config.precision = settings.precision
    config.augment.flip = "random"
    # The others average no weights.
    config.optimizer.ema_decay = 0.0
    # Against a PyTorch that has found the GPU, a CPU would say nothing.
    config.distribute.require_gpus = int(
        os.environ.get("JOB_REQUIRE_GPUS") or 0
    )
    if settings.replicas > 1:
        config.distribute.logical_devices = settings.replicas
    strategy = train.create_strategy(config)
    data = train.load_data(config)
    plan = train.create_plan(config, len(data.train))
    state = train.create_state(config, strategy, num_classes=data.num_classes)
    steps = train.create_train_steps(
        config, strategy, state, plan, state.model, plan.phases[0]
    )
    batches = train.create_batches(config, strategy, data.train, first_step=0)

    def run(count):
        steps(batches, tf.constant(count))
        state.step.numpy()

    return run


if __name__ == "__main__":
    turns.take(make)
