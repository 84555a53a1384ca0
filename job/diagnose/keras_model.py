"""Checks of somebody else's model: a .keras file, and nothing of its code.

    loaded = load(pathlib.Path("model.keras"))
    check_model(loaded, test_split)

A .keras file is a zip with a description of layers and their weights. It is
read in Keras' safe mode, and before that every class that it names must be
Keras' own: a Lambda, a custom object or a wrapped model of another library
would be code of the file's author. HDF5 and pickles are refused outright.
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import google_crc32c
import keras
import numpy as np
import numpy.typing as npt

from job import errors
from job.data.dataset import Split
from job.diagnose import costs, probes
from job.diagnose.finding import Cost, Finding
from job.diagnose.from_config import check_frozen_base
from job.diagnose.from_run import check_running_moments
from job.model.vgg import PREPROCESSING

_Array = npt.NDArray

_MOST_BYTES = 2**31
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
# Keras' own classes that run code, or read files, of the file's author.
_REFUSED = frozenset(
    [
        *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
        *("StringLookup", "IntegerLookup", "TextVectorization"),
    ]
)

# crc32c of keras.applications' VGG16 block1_conv1 kernel, float32
# [3, 3, 3, 64]: who has it has ImageNet's weights, frozen or hardly moved.
_IMAGENET_KERNEL = "f73a1cfd"

# Images that are looked with, and their batch.
_IMAGES, _BATCH = 512, 64
# Larger ones, fewer of them; no fewer than this.
_FEWEST_IMAGES = 64
# A scale must be so many points better than guessing to be the model's own,
# and so many better than pixels as they are in files to be a finding.
_LEARNT, _BETTER = 10.0, 5.0
_SUM_TO_ONE = 1e-3


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model and what it was compiled with.

    Attributes:
      model: not compiled.
      compiled: its compile_config, as the file has it; {} where it has none.
      policy: of the model's arithmetic; "": the file does not say.
    """

    model: keras.Model
    compiled: Mapping[str, Any]
    policy: str = ""


def load(path: pathlib.Path) -> Loaded:
    """Reads a .keras file, in safe mode.

    Raises:
      DataError: it is no .keras file, is damaged, or asks for other code than
        Keras' own.
    """
    where = f"--keras_model={path}"
    if not path.is_file():
        raise errors.DataError(f"{where}: there is no such file")
    if path.suffix != ".keras":
        raise errors.DataError(
            f"{where}: only .keras files are read; with the model in memory,"
            ' model.save("model.keras") writes one'
        )
    config = _read_config(path, where)
    _check_classes(config, where)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # pylint: disable=broad-except
        # Keras raises whatever its layers raise.
        first = (str(error).strip().splitlines() or ["?"])[0][:200]
        raise errors.DataError(
            f"{where} cannot be loaded ({type(error).__name__}: {first})"
        ) from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise errors.DataError(
            f"{where} has {len(model.inputs)} inputs and {len(model.outputs)}"
            " outputs; a classifier has one of each"
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise errors.DataError(
            f"{where} takes {list(shape)}; it must be images, [None, height,"
            " width, 3]"
        )
    answer = tuple(model.outputs[0].shape)
    if len(answer) != 2:
        raise errors.DataError(
            f"{where} gives {list(answer)}; it must be a number a class,"
            " [None, 10]: after convolutions, Flatten or pooling makes it that"
        )
    compiled = config.get("compile_config") or {}
    return Loaded(model, compiled, _policy(config))


def _policy(config: Mapping[str, Any]) -> str:
    """Returns the name of a model's own policy, which Sequential's files have.

    A functional model's have not; it is taken for that of its first weights.
    """
    inner = config.get("config")
    policy = inner.get("dtype") if isinstance(inner, dict) else None
    if isinstance(policy, dict):
        return str((policy.get("config") or {}).get("name", ""))
    return policy if isinstance(policy, str) else ""


def _sides(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Returns height and width; 32 where any will do."""
    return tuple(side or 32 for side in shape[1:3])


def _read_config(path: pathlib.Path, where: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _MOST_BYTES:
                raise errors.DataError(
                    f"{where} unpacks to {size:,} bytes; no VGG16 is so large"
                )
            names = set(archive.namelist())
            for name in sorted(names - {*_MEMBERS}):
                raise errors.DataError(
                    f"{where} holds {name[:80]!r}, which a model of layers and"
                    " weights does not need"
                )
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError):
        raise errors.DataError(
            f"{where} is no .keras file: no zip with a config.json in it"
        ) from None
    if not isinstance(config, dict) or not isinstance(
        config.get("compile_config") or {}, dict
    ):
        raise errors.DataError(f"{where}: its config.json is no model's")
    return config


def _check_classes(config: dict[str, Any], where: str) -> None:
    """Refuses what is not Keras' own, in the layers and what they hold.

    A loss or metric of one's own does not matter: it is not loaded.
    """
    waiting: list[Any] = [
        {k: v for k, v in config.items() if k != "compile_config"}
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        if not isinstance(value, dict):
            continue
        waiting.extend(value.values())
        name = value.get("class_name")
        if name is None:
            continue
        module = value.get("module") or "keras"
        own = str(module).split(".")[0] == "keras"
        plain = module == "builtins" and name in ("dict", "list", "tuple")
        if name in _REFUSED or not (own or plain):
            raise errors.DataError(
                f"{where}: {module}.{name} is code of the file's author, and is"
                " not run; replace it by layers of Keras"
            )


def check_model(
    loaded: Loaded, split: Split, num_classes: int = 10
) -> tuple[dict[str, Finding | None], dict[str, str]]:
    """Makes all checks that need no config.

    Args:
      loaded: what `load` returned.
      split: images with the labels that the model should give; not those it
        was trained on.
      num_classes: Number of classes.

    Returns:
      What each check found, and what is worth knowing that is no mistake.
    """
    model, compiled = loaded.model, loaded.compiled
    found: dict[str, Finding | None] = {}
    units = int(model.outputs[0].shape[-1])
    found["output_units"] = check_output_units(units, num_classes)
    if found["output_units"]:
        return found, {}
    height, width = _shape(model)
    count = max(_FEWEST_IMAGES, _IMAGES * 32**2 // (height * width))
    drawn = np.random.default_rng(0).permutation(len(split))
    some = split.take(drawn[: min(count, _IMAGES)])
    outputs = {scale: predict(model, some.images, scale) for scale in _scales()}
    scores = {k: top_1(v, some.labels) for k, v in outputs.items()}
    best = max(scores, key=lambda scale: scores[scale])
    loss = loss_of(compiled)
    found |= {
        "from_logits": check_from_logits(
            outputs[best], loss=loss, from_logits=_from_logits(compiled)
        ),
        "inflated_accuracy": check_inflated_accuracy(
            outputs[best],
            some.labels,
            loss=loss,
            metrics=[_name(m) for m in _listed(compiled.get("metrics"))],
        ),
        "at_chance": check_at_chance(scores, num_classes),
        "input_scale": check_input_scale(
            scores,
            imagenet=_has_imagenet_kernel(model),
            num_classes=num_classes,
        ),
        "first_loss": probes.check_first_loss(
            cross_entropy(outputs[best], some.labels), num_classes
        ),
        "weight_decay": check_decoupled_decay(compiled.get("optimizer")),
        "frozen_batch_norm": check_frozen_batch_norm(model),
        "loss_scaling": probes.check_loss_scaling(
            precision=_compute_dtype(model),
            scaled=_scales_loss(loaded),
        ),
    }
    found["frozen_base"] = check_frozen_base(
        side=last_map(model), frozen=has_frozen_base(model)
    )
    found |= check_activations(model, some, best)
    found = {name: _for_keras(each) for name, each in found.items()}
    listed = ", ".join(f"{name} {score:.1f}" for name, score in scores.items())
    what = f"top-1 accuracy on {len(some)} images, by what is done to pixels"
    return found, {what: listed}


# Checks that a config of the job has too, where flags mend them.
_REMEDIES = {
    "frozen_base": (
        "base.trainable = True for its last block at least, with a rate of 1e-4"
        " or less; or larger images",
    ),
    "first_loss": (
        'kernel_initializer="he_normal" where there is ReLU, and pixels'
        " scaled as the weights had them",
    ),
    "dead_relus": (
        "keras.layers.BatchNormalization() before each ReLU,"
        ' kernel_initializer="he_normal", or a smaller learning rate',
    ),
}


def _for_keras(found: Finding | None) -> Finding | None:
    """Returns a finding with what mends a model, where flags would."""
    if found is None or found.check not in _REMEDIES:
        return found
    return dataclasses.replace(found, remedy=_REMEDIES[found.check])


def check_activations(
    model: keras.Model, split: Split, scale: str
) -> dict[str, Finding | None]:
    """Looks at what the layers answer to images of the model's own scale.

    Args:
      model: as `load` returns it.
      split: some images.
      scale: what is done to them; see `predict`.
    """
    images = _scaled(split.images[:_BATCH], scale, _shape(model))
    shares = probes.dead_shares(
        lambda batch: model(batch, training=False),
        probes.relu_layers(model),
        images,
    )
    found = {"dead_relus": probes.check_dead_relus(shares, len(images))}
    if batch_norms(model):
        # Dropout lowers the accuracy in training: then there is no finding.
        right = {
            training: top_1(
                np.asarray(model(images, training=training), np.float32),
                split.labels[: len(images)],
            )
            for training in (True, False)
        }
        found["running_moments"] = check_running_moments(
            by_batch=right[True] / 100,
            by_running=right[False] / 100,
            images=len(images),
        )
    return found


def check_output_units(units: int, num_classes: int = 10) -> Finding | None:
    """Compares the outputs with the classes."""
    if units == num_classes:
        return None
    return Finding(
        "output_units",
        "the outputs are not the classes",
        f"{units} outputs for {num_classes} classes",
        costs.OUTPUT_UNITS,
        (f"keras.layers.Dense({num_classes}) as the last layer",),
    )


def check_from_logits(
    outputs: _Array, *, loss: str, from_logits: bool
) -> Finding | None:
    """Looks for a softmax before a loss that makes one, or none at all.

    Args:
      outputs: float32 [n, 10], of the model.
      loss: its class or function name; "": not compiled.
      from_logits: what the loss was told.
    """
    if "crossentropy" not in loss:
        return None
    sums = outputs.sum(axis=1)
    off = float(np.abs(sums - 1).max())
    likely = off < _SUM_TO_ONE and outputs.min() >= 0
    if likely == (not from_logits) or "binary" in loss:
        return None
    seen = (
        f"the outputs sum to 1 within {off:.0e}"
        if likely
        else f"the outputs sum to {sums.min():.2f} to {sums.max():.2f}"
    )
    return Finding(
        "from_logits",
        "softmax twice" if likely else "no softmax at all",
        f"{seen}, and {loss} was told from_logits={from_logits}",
        costs.SOFTMAX_TWICE,
        (
            "leave out the last layer's softmax"
            if likely
            else "from_logits=True, the last layer being linear",
        ),
    )


def check_inflated_accuracy(
    outputs: _Array, labels: _Array, *, loss: str, metrics: list[str]
) -> Finding | None:
    """Looks for an accuracy that counts ten yes-or-no answers an image.

    Nine of ten answers are right where all are no: 90 %, with nothing learnt.

    Args:
      outputs: float32 [n, 10], of the model.
      labels: int [n].
      loss: its class or function name; "": not compiled.
      metrics: names; with a binary loss, "accuracy" is binary.
    """
    binary = "binary_accuracy" in metrics or "binaryaccuracy" in metrics
    plain = {"accuracy", "acc"} & {*metrics}
    if not (binary or ("binary_crossentropy" in loss and plain)):
        return None
    ones = np.eye(outputs.shape[1])[labels]
    claimed = 100 * float(((outputs > 0.5) == (ones > 0.5)).mean())
    right = top_1(outputs, labels)
    return Finding(
        "inflated_accuracy",
        "the accuracy is a binary one, over ten outputs",
        f"{claimed:.1f} by the metric, {right:.1f} of {len(labels)} images"
        " recognized; answering no to everything scores 90.0",
        Cost(
            claimed - right,
            "of this model: so much is it too high; keras #3098, #3396",
        ),
        (
            "loss sparse_categorical_crossentropy, metric"
            " sparse_categorical_accuracy",
        ),
    )


def check_at_chance(
    accuracies: Mapping[str, float], num_classes: int = 10
) -> Finding | None:
    """Looks for a model that knows the images on no scale of pixels.

    Args:
      accuracies: points, by what is done to pixels.
      num_classes: Number of classes.
    """
    best = max(accuracies.values())
    if best >= 100 / num_classes + _LEARNT:
        return None
    return Finding(
        "at_chance",
        "the model does not know these images, whatever is done to pixels",
        f"{best:.1f} % at best",
        costs.AT_CHANCE,
        (
            "compare the order of its classes with the data's, and the images"
            " that it was trained on; or it has not been trained",
        ),
    )


def check_input_scale(
    accuracies: Mapping[str, float], *, imagenet: bool, num_classes: int = 10
) -> Finding | None:
    """Looks for a scale of pixels that the model needs and does not make.

    Args:
      accuracies: points, by what is done to pixels; `raw` is nothing.
      imagenet: the first filters are ImageNet's VGG16's.
      num_classes: Number of classes.
    """
    best = max(accuracies, key=lambda name: accuracies[name])
    chance = 100 / num_classes
    if accuracies[best] < chance + _LEARNT:
        return None
    seen = (
        f"{accuracies[best]:.1f} on pixels {_SCALE_WORDS[best]},"
        f" {accuracies['raw']:.1f} on pixels as they are, 0 to 255"
    )
    wanted = {"caffe", "raw"}
    if imagenet and accuracies[best] > max(accuracies[w] for w in wanted):
        return Finding(
            "preprocessing",
            "ImageNet's filters on pixels that they do not know",
            f"{seen}, and block1_conv1 is ImageNet's own, which knows blue,"
            " green, red less the mean",
            costs.PREPROCESSING,
            ("keras.applications.vgg16.preprocess_input, then train again",),
        )
    points = accuracies[best] - accuracies["raw"]
    if points < _BETTER:
        return None
    return Finding(
        "input_scale",
        f"the model needs pixels {_SCALE_WORDS[best]}, and does not do it",
        seen,
        Cost(points, "of this model, where it is given pixels as they are"),
        (
            "make it the model's first layer, keras.layers.Rescaling or"
            " Normalization: so it cannot be forgotten",
        ),
    )


_SCALE_WORDS = {
    "raw": "as they are",
    "unit": "divided by 255",
    "symmetric": "from -1 to 1",
    "standardize": "standardized",
    "caffe": "as ImageNet's VGG16 knows them",
}


def _scales() -> list[str]:
    return list(_SCALE_WORDS)


def predict(model: keras.Model, images: _Array, scale: str) -> _Array:
    """Returns the outputs, float32 [n, units].

    Args:
      model: as `load` returns it.
      images: uint8 [n, 32, 32, 3].
      scale: raw, symmetric, or a key of `vgg.PREPROCESSING`.
    """
    scaled = _scaled(images, scale, _shape(model))
    outputs = model.predict(scaled, batch_size=_BATCH, verbose=0)
    return np.asarray(outputs, np.float32)


def _shape(model: keras.Model) -> tuple[int, ...]:
    return _sides(tuple(model.inputs[0].shape))


def _scaled(images: _Array, scale: str, sides: tuple[int, ...]) -> _Array:
    pixels = images.astype(np.float32)
    if sides != images.shape[1:3]:
        pixels = np.asarray(keras.ops.image.resize(pixels, sides))
    if scale == "raw":
        return pixels
    if scale == "symmetric":
        return pixels / 127.5 - 1
    mean, divisor, bgr = PREPROCESSING[scale]
    pixels = pixels[..., ::-1] if bgr else pixels
    scaled = (pixels - np.asarray(mean)) / np.asarray(divisor)
    return scaled.astype(np.float32)


def top_1(outputs: _Array, labels: _Array) -> float:
    """Returns the share of images whose likeliest class is right, in %."""
    return 100 * float((outputs.argmax(axis=1) == labels).mean())


def cross_entropy(outputs: _Array, labels: _Array) -> float:
    """Returns the mean loss of logits, or of probabilities that sum to 1."""
    likely = (
        np.abs(outputs.sum(axis=1) - 1).max() < _SUM_TO_ONE
        and outputs.min() >= 0
    )
    logs = np.log(np.maximum(outputs, 1e-12)) if likely else outputs
    logs = logs - logs.max(axis=1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def check_decoupled_decay(optimizer: Any) -> Finding | None:
    """Looks for Keras' weight decay set as if it were PyTorch's.

    Keras' is decoupled from gradient and momentum: w -= rate * decay * w, so
    that SGD's of momentum m does (1 - m) of what PyTorch's does.

    Args:
      optimizer: of a compile_config.
    """
    config = optimizer.get("config", {}) if isinstance(optimizer, dict) else {}
    decay = config.get("weight_decay")
    momentum = config.get("momentum") or 0.0
    if _name(optimizer) != "sgd" or not decay or not momentum:
        return None
    coupled = decay * (1 - momentum)
    # What published recipes for VGG16 have, coupled, begins at 1e-4.
    if coupled >= 1e-4:
        return None
    return Finding(
        "weight_decay",
        "Keras' weight decay set as if it were PyTorch's",
        f"weight_decay {decay:g} with momentum {momentum:g} does what"
        f" {coupled:.1g} does in PyTorch; recipes for VGG16 have 1e-4 to 1e-3",
        costs.WEIGHT_DECAY,
        (f"weight_decay={decay / (1 - momentum):.2g}",),
    )


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch-normalization layers, those of inner models too."""
    return [
        layer
        for layer in probes.flat_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def check_frozen_batch_norm(model: keras.Model) -> Finding | None:
    """Looks for normalization that was frozen before it knew any moments."""
    layers = batch_norms(model)
    frozen = [
        layer
        for layer in layers
        if not layer.trainable
        and not np.any(layer.moving_mean)
        and np.allclose(layer.moving_variance, 1.0)
    ]
    if not frozen:
        return None
    return Finding(
        "frozen_batch_norm",
        "batch normalization is frozen, and does nothing",
        f"{len(frozen)} of {len(layers)} layers are not trainable, with mean 0"
        " and variance 1 as they were made",
        costs.BATCH_NORM_STATISTICS,
        ("layer.trainable = True for layers that have no moments yet",),
    )


def has_frozen_base(model: keras.Model) -> bool:
    """Says whether no convolution of the model trains, and there are some."""
    layers = [
        layer
        for layer in probes.flat_layers(model)
        if isinstance(layer, keras.layers.Conv2D)
    ]
    return bool(layers) and not any(
        layer.trainable_variables for layer in layers
    )


def last_map(model: keras.Model) -> int:
    """Returns the least side of the maps in the model, in pixels."""
    maps = [
        layer
        for layer in probes.flat_layers(model)
        if isinstance(
            layer,
            keras.layers.Conv2D
            | keras.layers.MaxPooling2D
            | keras.layers.AveragePooling2D,
        )
    ]
    blank = np.zeros((1, *_shape(model), 3), np.float32)
    with probes.outputs_of(maps) as outputs:
        model(blank, training=False)
    return min(
        (min(output.shape[1:3]) for output in outputs.values()), default=1
    )


def _has_imagenet_kernel(model: keras.Model) -> bool:
    for layer in probes.flat_layers(model):
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.asarray(layer.kernel, np.float32)
            crc = google_crc32c.value(kernel.tobytes())
            return f"{crc:08x}" == _IMAGENET_KERNEL
    return False


def _scales_loss(loaded: Loaded) -> bool:
    """Says whether the loss is scaled, as far as the file tells.

    Keras does it where the model's own policy is float16, not where only some
    layers' are; what a loop of one's own does with a model that was never
    compiled is not in the file.
    """
    optimizer = _name(loaded.compiled.get("optimizer"))
    if not optimizer or optimizer == "LossScaleOptimizer":
        return True
    if loaded.policy:
        return loaded.policy == "mixed_float16"
    layers = probes.flat_layers(loaded.model)
    first = next((layer for layer in layers if layer.weights), None)
    return first is not None and first.compute_dtype == "float16"


def _compute_dtype(model: keras.Model) -> str:
    dtypes = {layer.compute_dtype for layer in probes.flat_layers(model)}
    return "float16" if "float16" in dtypes else "float32"


def loss_of(compiled: Mapping[str, Any]) -> str:
    """Returns the loss' name, lower case with underscores; "": none."""
    return _name(compiled.get("loss"))


def _from_logits(compiled: Mapping[str, Any]) -> bool:
    loss = compiled.get("loss")
    config = loss.get("config") if isinstance(loss, dict) else None
    return (
        bool(config.get("from_logits")) if isinstance(config, dict) else False
    )


def _listed(value: Any) -> list[Any]:
    """Returns metrics as one list, however they are nested."""
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    if isinstance(value, list):
        return [inner for entry in value for inner in _listed(entry)]
    return [] if value is None else [value]


def _name(value: Any) -> str:
    """Returns what a loss, metric or optimizer is called, in any form."""
    if isinstance(value, str):
        return value.lower()
    if not isinstance(value, dict):
        return ""
    config = value.get("config")
    if value.get("class_name") == "LossScaleOptimizer":
        return "LossScaleOptimizer"
    if isinstance(config, dict) and value.get("class_name") != "function":
        known = {
            "SparseCategoricalCrossentropy": "sparse_categorical_crossentropy",
            "CategoricalCrossentropy": "categorical_crossentropy",
            "BinaryCrossentropy": "binary_crossentropy",
            "BinaryAccuracy": "binary_accuracy",
        }
        name = str(value.get("class_name"))
        return known.get(name, name.lower())
    return str(config).lower()
