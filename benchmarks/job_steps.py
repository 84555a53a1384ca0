"""Training steps of this job, with its input pipeline and augmentation."""

import tensorflow as tf

from benchmarks import step_server
from configs import stem32
from job import build


def make_run(settings):
    config = stem32.get_config("10ep").unlock()
    config.data.source = "synthetic"
    config.model.progressive_sizes = ()
    config.model.progressive_epochs = ()
    config.model.width = settings.width
    config.model.stem_filters = 0
    config.global_batch_size = settings.batch
    config.precision = settings.precision
    config.augment.flip = "random"
    # The other frameworks have SGD without an average of the weights.
    config.optimizer.muon_ratio = 0.0
    config.optimizer.ema_decay = 0.0
    if settings.replicas > 1:
        config.distribute.logical_devices = settings.replicas
    strategy = build.create_strategy(config)
    data = build.load_data(config)
    plan = build.create_plan(config, len(data.train))
    state = build.create_state(config, strategy, num_classes=data.num_classes)
    steps = build.create_train_steps(
        config, strategy, state, plan, state.model, plan.phases[0]
    )
    batches = build.create_batches(config, strategy, data.train, first_step=0)

    def run(count):
        steps(batches, tf.constant(count))
        state.step.numpy()

    return run


if __name__ == "__main__":
    step_server.serve(make_run)
