"""Training steps of Keras: built-in layers and `Model.fit`."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks import step_server

_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def make_run(settings):
    # All three frameworks compute in real float32, not in TF32.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if settings.precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{settings.precision}")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(2 / 32, 2 / 32, interpolation="nearest"),
            layers.Normalization(
                mean=[125.3, 123.0, 113.9],
                variance=[63.0**2, 62.1**2, 66.7**2],
            ),
        ]
    )
    for depth, filters in _BLOCKS:
        for _ in range(depth):
            model.add(
                layers.Conv2D(
                    round(filters * settings.width),
                    3,
                    padding="same",
                    use_bias=False,
                )
            )
            model.add(layers.BatchNormalization())
            model.add(layers.ReLU())
        model.add(layers.AveragePooling2D(2))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10, dtype="float32"))
    model.compile(
        keras.optimizers.SGD(
            0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # XLA is several times slower on CPUs. On GPUs, Keras logs that it
        # disables XLA, because XLA cannot compile RandomTranslation.
        jit_compile=bool(tf.config.list_physical_devices("GPU")),
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (settings.batch, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, settings.batch)
    data = tf.data.Dataset.from_tensors((images, labels)).cache().repeat()
    data = data.prefetch(2)

    def run(count):
        model.fit(data, steps_per_epoch=count, verbose=0)

    return run


if __name__ == "__main__":
    step_server.serve(make_run)
