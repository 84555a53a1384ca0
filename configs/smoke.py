"""Smallest run that uses every package of the job, for tests.

    python -m job.main --config=configs/smoke.py --workdir=DIR

It has 20 steps on synthetic images and takes some seconds on 2 CPU cores. The
accuracy has no meaning.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns a config of 20 steps at an eighth of the width."""
    config = default.get_config()
    config.data.source = "synthetic"
    config.data.synthetic_train_images = 640
    config.data.synthetic_test_images = 200
    config.epochs = 2.0
    config.global_batch_size = 64
    config.precision = "float32"
    config.model.width = 0.125
    config.log_every_steps = 5
    config.optimizer.peak_learning_rate = 0.05
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.ema_decay = 0.9
    config.evaluate.every_epochs = 1.0
    config.evaluate.global_batch_size = 64
    config.checkpoint.every_steps = 5
    return config
