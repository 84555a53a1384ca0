"""Checks of a Keras model that this job did not train.

    loaded = keras_file.load(pathlib.Path("model.keras"))
    found, facts = check_model(loaded, test_split, num_classes=10)

They need images with labels, but no config.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt

from job.data.dataset import Split
from job.diagnose import budget, costs, layers, pixels, probes, scoring
from job.diagnose.architecture import check_frozen_base
from job.diagnose.finding import Cost, Finding, number_word
from job.diagnose.from_run import check_running_moments
from job.diagnose.keras_file import LOSS_SCALE_OPTIMIZER, LoadedModel
from job.diagnose.recipe import check_loss_scaling

_Array = npt.NDArray

# crc32c of the block1_conv1 kernel of keras.applications' VGG16, float32
# [3, 3, 3, 64]. A model that has it has ImageNet's weights.
IMAGENET_KERNEL = "f73a1cfd"

# Number of 32 px images to look at, the smallest number of larger ones.
_IMAGES, _MIN_IMAGES = 512, 64
# Points above guessing from which a scale of pixels is the model's own, and
# points above raw pixels from which it is a finding.
_LEARNED, _BETTER = 10.0, 5.0
# Smallest coupled weight decay of published recipes for VGG16.
_LEAST_DECAY = 1e-4

# Remedies for a Keras model, of checks whose remedies are flags of the job.
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


def check_model(
    loaded: LoadedModel,
    split: Split,
    *,
    num_classes: int,
    imagenet_kernel: str = IMAGENET_KERNEL,
) -> tuple[dict[str, Finding | None], dict[str, str]]:
    """Runs all checks of a model.

    Args:
      loaded: Model and its compile config; see `keras_file.load`.
      split: Images that the model was not trained on, with their labels.
      num_classes: Number of classes.
      imagenet_kernel: Checksum of the first kernel that identifies ImageNet's
        weights; see `layers.first_kernel_crc32c`.

    Returns:
      Finding of each check by its name, None where it found nothing; and facts
      that are not mistakes, by their names.
    """
    model = loaded.model
    units = int(model.outputs[0].shape[-1])
    output_units = check_output_units(units, num_classes=num_classes)
    if output_units:
        return {"output_units": output_units}, {}
    sample = _sample(split, scoring.input_size(model))
    outputs = {
        name: scoring.predict(model, sample.images, name)
        for name in pixels.SCALES
    }
    scores = {k: scoring.top_1(v, sample.labels) for k, v in outputs.items()}
    best = max(scores, key=lambda name: scores[name])
    found = {
        "output_units": output_units,
        "from_logits": check_from_logits(
            outputs[best], loss=loaded.loss, from_logits=loaded.from_logits
        ),
        "inflated_accuracy": check_inflated_accuracy(
            outputs[best],
            sample.labels,
            loss=loaded.loss,
            metrics=loaded.metrics,
        ),
        "at_chance": check_at_chance(scores, num_classes=num_classes),
        "input_scale": check_input_scale(
            scores,
            imagenet=layers.first_kernel_crc32c(model) == imagenet_kernel,
            num_classes=num_classes,
        ),
        "first_loss": probes.check_first_loss(
            scoring.cross_entropy(outputs[best], sample.labels),
            num_classes=num_classes,
        ),
        "weight_decay": check_decoupled_decay(
            optimizer=loaded.optimizer,
            weight_decay=loaded.optimizer_config.get("weight_decay"),
            momentum=loaded.optimizer_config.get("momentum"),
        ),
        "frozen_batch_norm": check_frozen_batch_norm(model),
        "loss_scaling": check_loss_scaling(
            precision=layers.compute_dtype(model), scaled=scales_loss(loaded)
        ),
        "frozen_base": check_frozen_base(
            size=layers.smallest_feature_map(model, scoring.input_size(model)),
            frozen=layers.has_frozen_base(model),
        ),
    }
    found |= check_activations(model, sample, best)
    found = {name: _for_keras(each) for name, each in found.items()}
    listed = ", ".join(f"{name} {score:.1f}" for name, score in scores.items())
    fact = f"top-1 accuracy on {len(sample)} images, by what is done to pixels"
    return found, {fact: listed}


def _sample(split: Split, input_size: tuple[int, ...]) -> Split:
    height, width = input_size
    count = budget.num_images(_IMAGES, height * width, at_least=_MIN_IMAGES)
    order = np.random.default_rng(0).permutation(len(split))
    return split.take(order[: min(count, _IMAGES)])


def _for_keras(found: Finding | None) -> Finding | None:
    """Returns a finding with a remedy for a Keras model instead of flags."""
    if found is None or found.check not in _REMEDIES:
        return found
    return dataclasses.replace(found, remedy=_REMEDIES[found.check])


def check_activations(
    model: keras.Model, split: Split, scale: str
) -> dict[str, Finding | None]:
    """Checks the outputs of ReLUs and of batch normalization.

    Args:
      model: Model of images.
      split: Sample of the images, with their labels.
      scale: Scale of pixels that the model expects, a key of `pixels.SCALES`.
    """
    images = scoring.prepare(model, split.images[:_MIN_IMAGES], scale)
    fractions = layers.dead_fractions(
        lambda batch: model(batch, training=False),
        layers.relu_layers(model),
        images,
    )
    found = {"dead_relus": probes.check_dead_relus(fractions, len(images))}
    if layers.batch_norms(model):
        # Dropout lowers the accuracy in training, which hides the mistake.
        accuracies = {
            training: scoring.top_1(
                np.asarray(model(images, training=training), np.float32),
                split.labels[: len(images)],
            )
            for training in (True, False)
        }
        found["running_moments"] = check_running_moments(
            by_batch=accuracies[True] / 100,
            by_running=accuracies[False] / 100,
            images=len(images),
        )
    return found


def check_output_units(units: int, *, num_classes: int) -> Finding | None:
    """Compares the number of outputs with the number of classes.

    Args:
      units: Number of outputs.
      num_classes: Number of classes.
    """
    if units == num_classes:
        return None
    return Finding(
        "output_units",
        "the outputs are not the classes",
        f"{units} outputs for {num_classes} classes",
        costs.output_units(num_classes),
        (f"keras.layers.Dense({num_classes}) as the last layer",),
    )


def check_from_logits(
    outputs: _Array, *, loss: str, from_logits: bool
) -> Finding | None:
    """Looks for two softmax functions before the loss, or none at all.

    Args:
      outputs: Outputs of the model, float32 [n, k].
      loss: Name of the loss; see `LoadedModel.loss`.
      from_logits: Whether the loss expects logits.
    """
    if "crossentropy" not in loss:
        return None
    sums = outputs.sum(axis=1)
    off = float(np.abs(sums - 1).max())
    probabilities = scoring.are_probabilities(outputs)
    if probabilities == (not from_logits) or "binary" in loss:
        return None
    seen = (
        f"the outputs sum to 1 within {off:.0e}"
        if probabilities
        else f"the outputs sum to {sums.min():.2f} to {sums.max():.2f}"
    )
    return Finding(
        "from_logits",
        "softmax twice" if probabilities else "no softmax at all",
        f"{seen}, and {loss} was told from_logits={from_logits}",
        costs.SOFTMAX_TWICE,
        (
            "leave out the last layer's softmax"
            if probabilities
            else "from_logits=True, the last layer being linear",
        ),
    )


def check_inflated_accuracy(
    outputs: _Array, labels: _Array, *, loss: str, metrics: Sequence[str]
) -> Finding | None:
    """Looks for an accuracy that counts one binary answer per class.

    With 10 classes it is 90 % where every answer is no, so without having
    learned anything.

    Args:
      outputs: Outputs of the model, float32 [n, k].
      labels: Labels, int [n].
      loss: Name of the loss; see `LoadedModel.loss`.
      metrics: Names of the metrics. With a binary loss, "accuracy" is binary.
    """
    binary = "binary_accuracy" in metrics or "binaryaccuracy" in metrics
    plain = {"accuracy", "acc"} & {*metrics}
    if not (binary or ("binary_crossentropy" in loss and plain)):
        return None
    units = outputs.shape[1]
    one_hot = np.eye(units)[labels]
    claimed = 100 * float(((outputs > 0.5) == (one_hot > 0.5)).mean())
    actual = scoring.top_1(outputs, labels)
    return Finding(
        "inflated_accuracy",
        f"the accuracy is a binary one, over {number_word(units)} outputs",
        f"{claimed:.1f} by the metric, {actual:.1f} of {len(labels)} images"
        " recognized; answering no to everything scores"
        f" {100 - 100 / units:.1f}",
        Cost(
            claimed - actual,
            "of this model: so much is it too high; keras #3098, #3396",
        ),
        (
            "loss sparse_categorical_crossentropy, metric"
            " sparse_categorical_accuracy",
        ),
    )


def check_at_chance(
    accuracies: Mapping[str, float], *, num_classes: int
) -> Finding | None:
    """Looks for a model that recognizes the images on no scale of pixels.

    Args:
      accuracies: Accuracy in % by scale of pixels.
      num_classes: Number of classes.
    """
    best = max(accuracies.values())
    if best >= 100 / num_classes + _LEARNED:
        return None
    return Finding(
        "at_chance",
        "the model does not know these images, whatever is done to pixels",
        f"{best:.1f} % at best",
        costs.at_chance(num_classes),
        (
            "compare the order of its classes with the data's, and the images"
            " that it was trained on; or it has not been trained",
        ),
    )


def check_input_scale(
    accuracies: Mapping[str, float], *, imagenet: bool, num_classes: int
) -> Finding | None:
    """Looks for a scale of pixels that the model needs and does not apply.

    Args:
      accuracies: Accuracy in % by scale of pixels, which includes "raw" and
        "caffe".
      imagenet: Whether the first kernel is that of ImageNet's VGG16.
      num_classes: Number of classes.
    """
    best = max(accuracies, key=lambda name: accuracies[name])
    if accuracies[best] < 100 / num_classes + _LEARNED:
        return None
    seen = (
        f"{accuracies[best]:.1f} on pixels {pixels.SCALES[best]},"
        f" {accuracies['raw']:.1f} on pixels as they are, 0 to 255"
    )
    known = max(accuracies["caffe"], accuracies["raw"])
    if imagenet and accuracies[best] > known:
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
        f"the model needs pixels {pixels.SCALES[best]}, and does not do it",
        seen,
        Cost(points, "of this model, where it is given pixels as they are"),
        (
            "make it the model's first layer, keras.layers.Rescaling or"
            " Normalization: so it cannot be forgotten",
        ),
    )


def check_decoupled_decay(
    *, optimizer: str, weight_decay: float | None, momentum: float | None
) -> Finding | None:
    """Looks for Keras' weight decay in the convention of PyTorch.

    Keras' is decoupled from gradient and momentum, w -= rate * decay * w. With
    momentum m it has the effect of (1 - m) times as much in PyTorch's SGD.

    Args:
      optimizer: Name of the optimizer; see `LoadedModel.optimizer`.
      weight_decay: Weight decay of the optimizer. None if it has none.
      momentum: Momentum of the optimizer. None if it has none.
    """
    if optimizer != "sgd" or not weight_decay or not momentum:
        return None
    coupled = weight_decay * (1 - momentum)
    if coupled >= _LEAST_DECAY:
        return None
    return Finding(
        "weight_decay",
        "Keras' weight decay set as if it were PyTorch's",
        f"weight_decay {weight_decay:g} with momentum {momentum:g} does what"
        f" {coupled:.1g} does in PyTorch; recipes for VGG16 have 1e-4 to 1e-3",
        costs.WEIGHT_DECAY,
        (f"weight_decay={weight_decay / (1 - momentum):.2g}",),
    )


def check_frozen_batch_norm(model: keras.Model) -> Finding | None:
    """Looks for batch normalization frozen with its initial statistics."""
    found = layers.batch_norms(model)
    frozen = [
        layer
        for layer in found
        if not layer.trainable
        and not np.any(layer.moving_mean)
        and np.allclose(layer.moving_variance, 1.0)
    ]
    if not frozen:
        return None
    return Finding(
        "frozen_batch_norm",
        "batch normalization is frozen, and does nothing",
        f"{len(frozen)} of {len(found)} layers are not trainable, with mean 0"
        " and variance 1 as they were made",
        costs.BATCH_NORM_STATISTICS,
        ("layer.trainable = True for layers that have no moments yet",),
    )


def scales_loss(loaded: LoadedModel) -> bool:
    """Returns whether the loss is scaled, as far as the file tells.

    Keras scales it if the model's own policy is float16, but not if only some
    layers' policies are. A functional model's file lacks its policy, so that of
    its first weights is used. A model without a compile config passes, as its
    file does not hold the training loop.
    """
    if not loaded.optimizer or loaded.optimizer == LOSS_SCALE_OPTIMIZER:
        return True
    if loaded.policy:
        return loaded.policy == "mixed_float16"
    found = layers.flat_layers(loaded.model)
    first = next((layer for layer in found if layer.weights), None)
    return first is not None and first.compute_dtype == "float16"
