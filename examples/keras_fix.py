"""VGG16 on CIFAR-10 in plain Keras: the tutorial's script, fixed step by step.

    python examples/keras_fix.py --fixes=0      # as in the tutorial
    python examples/keras_fix.py                # with all fixes

Needs TensorFlow only. `--fixes=N` applies the first N fixes. Without `--data`,
Keras downloads the images; with it, they come from the folder of CIFAR-10's
binary version. docs/tutorial.md explains each fix and has the accuracies.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from keras import layers

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def load(folder):
    """Returns training and test images, uint8 [n, 32, 32, 3], and labels."""
    if not folder:
        train, test = keras.datasets.cifar10.load_data()
        return *train, *test
    arrays = []
    for files in ("data_batch_*.bin", "test_batch.bin"):
        paths = sorted(pathlib.Path(folder).rglob(files))
        if not paths:
            raise SystemExit(
                f"--data={folder}: the folder has no {files}. Fix: choose the"
                " folder of CIFAR-10's binary version, or leave out --data"
            )
        records = np.concatenate(
            [np.fromfile(path, np.uint8).reshape(-1, 3073) for path in paths]
        )
        # The file has all red values of an image first, then green, then blue.
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays += [images, records[:, 0]]
    return arrays


def vgg16(*, width, fixes):
    """Returns VGG16 for 32-pixel images, with the first fixes."""
    model = keras.Sequential([keras.Input((32, 32, 3))])
    # The scale is part of the model, so that nobody forgets it.
    model.add(layers.Rescaling(1 / 255))
    if fixes >= 3:  # Fix 3: augmentation. It is off in predict and evaluate.
        model.add(layers.RandomFlip("horizontal"))
        model.add(layers.RandomTranslation(2 / 32, 2 / 32, "reflect"))
    for depth, filters in BLOCKS:
        for _ in range(depth):
            channels = int(width * filters)
            if fixes >= 2:  # Fix 2: batch normalization and a small head.
                model.add(
                    layers.Conv2D(
                        channels,
                        3,
                        padding="same",
                        use_bias=False,
                        kernel_initializer="he_normal",
                    )
                )
                # Keras' momentum of 0.99 is too slow for a short run.
                model.add(layers.BatchNormalization(momentum=0.9))
                model.add(layers.ReLU())
            else:
                model.add(
                    layers.Conv2D(
                        channels, 3, padding="same", activation="relu"
                    )
                )
        model.add(layers.MaxPooling2D())
    if fixes >= 2:
        model.add(layers.GlobalAveragePooling2D())
    else:
        model.add(layers.Flatten())
        for _ in range(2):
            model.add(layers.Dense(int(width * 4096), activation="relu"))
            model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def make_optimizer(*, steps, fixes):
    """Returns the optimizer for a run of `steps` steps of 64 images."""
    if fixes >= 4:  # Fix 4: SGD with warm-up and a rate that falls to 0.
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - steps // 5, warmup_target=0.05, warmup_steps=steps // 5
        )
        # Keras' weight decay is not multiplied by the momentum, PyTorch's is:
        # 5e-4 in PyTorch is 5e-3 here.
        return keras.optimizers.SGD(
            schedule, momentum=0.9, nesterov=True, weight_decay=5e-3
        )
    if fixes >= 1:  # Fix 1: the learning rate.
        return keras.optimizers.Adam(3e-4 if fixes == 1 else 1e-3)
    return keras.optimizers.Adam()


def main():
    """Trains and prints the accuracy on all test images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--fixes",
        type=int,
        default=4,
        choices=range(5),
        help="number of fixes, from the first one on",
    )
    parser.add_argument("--data", help="folder of the binary version")
    parser.add_argument(
        "--images", type=int, default=50_000, help="training images"
    )
    parser.add_argument("--epochs", type=int, default=8, help="training epochs")
    parser.add_argument(
        "--width", type=float, default=0.25, help="multiplier of the filters"
    )
    parser.add_argument("--save", help="file to write, model.keras")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x, y, x_test, y_test = load(args.data)
    x, y = x[: args.images].astype("float32"), y[: args.images]
    model = vgg16(width=args.width, fixes=args.fixes)
    model.compile(
        optimizer=make_optimizer(
            steps=args.epochs * -(-len(x) // 64), fixes=args.fixes
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    model.fit(x, y, batch_size=64, epochs=args.epochs, verbose=2)
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(
        x_test.astype("float32"), y_test, batch_size=250, verbose=0
    )
    print(
        f"fixes {args.fixes}: {100 * accuracy:.2f}% on {len(x_test):,} test"
        f" images, {seconds:.0f} s of training"
    )
    if args.save:
        model.save(args.save)


if __name__ == "__main__":
    main()
