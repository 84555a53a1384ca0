"""Export of a trained network, for use without this job.

    export(network, resize, workdir / EXPORT, card, ...)

    folder/saved_model/    for TensorFlow and TensorFlow Serving
           model.keras     for Keras, with its built-in layers only
           README.md       the model card

Both models take uint8 images [n, 32, 32, 3], RGB, and return float32
probabilities [n, k] of k classes. They contain the preprocessing. Batch
normalization after a convolution is folded into it, because y = gamma (W x -
mean) / sqrt(var + eps) + beta is also a convolution. Before publication the
exported models are loaded and compared with the original network.
"""

import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from job import errors
from job.data.dataset import IMAGE_SIZE
from job.model import layers as layers_lib
from job.model import resize as resize_lib
from job.model.resize import Resize
from job.storage import files

SAVED_MODEL = "saved_model"
KERAS = "model.keras"
CARD = "README.md"

# Tolerated difference of a probability between the exported model and the
# evaluated network, both in float32.
TOLERANCE = 1e-5

# Suffix of an earlier export during its replacement.
_OLD = "-old"

# Names in the signature.
INPUT, OUTPUT = "images", "probabilities"


class DisagreementError(errors.JobError):
    """Difference of the export from the evaluated network (exit code 1)."""


def export(
    network: keras.Model,
    resize: Resize,
    folder: pathlib.Path,
    card: str,
    *,
    method: str,
    images: np.ndarray | None = None,
) -> float:
    """Writes both files and the model card as one atomic change.

    Args:
      network: Trained network of `vgg.vgg16`, in float32.
      resize: Scaling of the images before the network; see `model.resize`.
      folder: Folder of the export. An earlier export is replaced.
      card: Model card in Markdown. {difference} is replaced by the returned
        number.
      method: Method of `resize`.
      images: Images on which the export is compared with `network`, uint8 [n,
        32, 32, 3], in addition to random ones. If None, only random images are
        used.

    Returns:
      The largest difference of a probability, 0 to 1.

    Raises:
      DisagreementError: The difference exceeds `TOLERANCE`. Nothing is
        published.
      StorageError: The disk is full or not writable.
    """
    with files.translate_errors(folder):
        _clean_up(folder)
        staged = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)
        )
    try:
        with files.translate_errors(
            folder,
            tf.errors.OpError,
            # A lack of memory, or a full disk; the caller tells them apart.
            passing=(tf.errors.ResourceExhaustedError,),
        ):
            size = int(resize(_zeros()).shape[1])
            folded = fold(network, size=size, method=method)
            folded.save(staged / KERAS)
            _save_model(folded, staged / SAVED_MODEL)
            difference = compare(network, resize, staged, images)
            (staged / CARD).write_text(
                card.replace("{difference}", f"{difference:.1g}"),
                encoding="utf-8",
            )
            staged.chmod(0o755)  # mkdtemp permits access to its owner only.
            _replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return difference


def fold(network: keras.Model, *, size: int, method: str) -> keras.Model:
    """Returns an equivalent network of Keras' layers, with probabilities.

    Args:
      network: Network of `vgg.vgg16`, in float32.
      size: Height and width to which images are scaled first, in pixels. At 32
        they are unchanged.
      method: Method of the scaling; see `resize.interpolation_matrix`.

    Returns:
      A model from uint8 [b, 32, 32, 3] to float32 [b, k].
    """
    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name=INPUT)
    # The cast keeps the input of the other layers in float32.
    x = keras.layers.Rescaling(1.0, dtype="float32", name="cast")(images)
    weights: dict[str, list[np.ndarray]] = {}
    if size != IMAGE_SIZE:
        matrix = resize_lib.interpolation_matrix(IMAGE_SIZE, size, method).T
        for name, equation, shape in (
            ("rows", "bijc,io->bojc", (size, IMAGE_SIZE, 3)),
            ("columns", "bijc,jo->bioc", (size, size, 3)),
        ):
            x = keras.layers.EinsumDense(
                equation, shape, trainable=False, name=name
            )(x)
            weights[name] = [matrix]
        x = keras.layers.ReLU(max_value=255.0, name="clip")(x)
    layers, reverse = network.layers, False
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, layers_lib.Standardize):
            reverse = layer.bgr
            order = -1 if reverse else 1
            x = keras.layers.Normalization(
                mean=list(layer.mean)[::order],
                variance=[d**2 for d in layer.divisor][::order],
                name=layer.name,
            )(x)
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = _folded(layer, behind)
            if reverse:  # Reversing the kernel costs nothing at run time.
                kernel, reverse = kernel[:, :, ::-1], False
            x = keras.layers.Conv2D(
                layer.filters, 3, padding="same", name=layer.name
            )(x)
            weights[layer.name] = [kernel, bias]
        elif isinstance(layer, keras.layers.Dense):
            last = layer.name == "logits"
            x = keras.layers.Dense(
                layer.units, None if last else "relu", name=layer.name
            )(x)
            weights[layer.name] = [np.array(w) for w in layer.weights]
        elif isinstance(layer, layers_lib.BatchNormalization):
            continue  # It is folded into the convolution before it.
        elif isinstance(layer, keras.layers.InputLayer):
            continue
        elif isinstance(layer, keras.layers.Activation):
            x = keras.layers.Softmax(name=OUTPUT)(x)
        else:  # ReLU, pooling and flatten have no weights.
            x = type(layer).from_config(
                layer.get_config() | {"dtype": "float32"}
            )(x)
    folded = keras.Model(images, x, name="vgg16_cifar10")
    for name, values in weights.items():
        folded.get_layer(name).set_weights(values)
    return folded


def _folded(
    convolution: keras.layers.Conv2D, behind: keras.layers.Layer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the folded float32 kernel and bias, computed in float64."""
    kernel = np.array(convolution.kernel, np.float64)
    if not isinstance(behind, layers_lib.BatchNormalization):
        bias = (
            np.array(convolution.bias)
            if convolution.use_bias
            else np.zeros(convolution.filters)
        )
        return kernel.astype(np.float32), bias.astype(np.float32)
    gamma, beta, mean, variance = (
        np.array(v, np.float64)
        for v in (
            behind.gamma,
            behind.beta,
            behind.moving_mean,
            behind.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + behind.epsilon)
    bias = beta - mean * scale
    return (kernel * scale).astype(np.float32), bias.astype(np.float32)


def _save_model(folded: keras.Model, folder: pathlib.Path) -> None:
    """Writes a SavedModel with a signature that names input and output."""

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: folded(images, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(folded)
    archive.add_endpoint(
        "serve",
        serve,
        [tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.uint8, INPUT)],
    )
    archive.write_out(str(folder), verbose=False)


def compare(
    network: keras.Model,
    resize: Resize,
    folder: pathlib.Path,
    images: np.ndarray | None,
) -> float:
    """Returns the largest difference between the files and the network.

    Args:
      network: Original network.
      resize: Scaling of the images before the network.
      folder: Folder of the files.
      images: Images for the comparison, uint8 [n, 32, 32, 3], or None.

    Raises:
      DisagreementError: A probability differs by more than `TOLERANCE`.
    """
    served = tf.saved_model.load(str(folder / SAVED_MODEL))
    signature = served.signatures["serving_default"]
    loaded = keras.models.load_model(folder / KERAS, compile=False)
    largest = 0.0
    shown = _draw()
    if images is not None:
        shown = np.concatenate([images, shown])
    for start in range(0, len(shown), 16):
        batch = tf.constant(shown[start : start + 16])
        with tf.device("CPU:0"):  # Its sums have a fixed order.
            logits = network(resize(batch), training=False)[0]
            expected = tf.nn.softmax(logits).numpy()
            found = {
                SAVED_MODEL: signature(**{INPUT: batch})[OUTPUT].numpy(),
                KERAS: np.array(loaded(batch)),
            }
        for name, probabilities in found.items():
            difference = float(np.abs(probabilities - expected).max())
            if not difference <= TOLERANCE:
                raise DisagreementError(
                    f"{name}: a probability differs from the checkpoint's by"
                    f" {difference:g}, more than {TOLERANCE:g}, so nothing was"
                    " exported. Fix: install the versions of requirements/ with"
                    " `make setup`"
                )
            largest = max(largest, difference)
    return largest


def _draw() -> np.ndarray:
    """Returns images of noise and of single colors, uint8 [16, 32, 32, 3]."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, IMAGE_SIZE, IMAGE_SIZE, 3))
    colors = rng.integers(0, 256, (8, 1, 1, 3)) + np.zeros_like(noise)
    return np.concatenate([noise, colors]).astype(np.uint8)


def _zeros() -> tf.Tensor:
    return tf.zeros([1, IMAGE_SIZE, IMAGE_SIZE, 3])


def _clean_up(folder: pathlib.Path) -> None:
    """Removes the files of a killed export and restores the one it replaced."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if left.name.endswith(_OLD) and not folder.exists():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _replace(staged: pathlib.Path, folder: pathlib.Path) -> None:
    """Replaces a folder by another one."""
    old = staged.with_name(staged.name + _OLD)
    if folder.exists():
        folder.rename(old)
    staged.rename(folder)
    if old.is_symlink():  # Its target may belong to another run.
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
    if old.exists():
        logging.warning(
            "Kept the earlier export, which cannot be removed: %s", old
        )
