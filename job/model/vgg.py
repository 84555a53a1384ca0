"""VGG16: what Simonyan & Zisserman (arXiv:1409.1556) drew, and its 32 px form.

Blocks of 2, 2, 3, 3 and 3 convolutions, each with ReLU, and with batch
normalization where wanted, a pooling at each block's end, 512 features, ten
logits. Pixels go in as they are, 0 to 255: normalizing them is the model's
first layer, so it cannot be forgotten.

    model = vgg16(width=1.0, precision="bfloat16", seed=0, ...)
    logits, moments = model(images, training=True)
    base, head = split(model)       # images -> features, features -> logits

In training a batch-normalization layer returns its batch moments rather than
assign them: the forward pass stays pure, and the step sums moments and
gradients over the replicas in one go. For the same reason dropout is told its
random numbers rather than draw them.
"""

from collections.abc import Sequence

import keras
import numpy as np

from job.data.dataset import NUM_CLASSES
from job.model.convolution import Convolution
from job.model.initializers import create_initializers
from job.model.layers import BatchNormalization, Dropout, Standardize
from job.model.spec import BLOCKS

# Of CIFAR-10's training images, channels red, green, blue, 0 to 255.
PIXEL_MEAN = (125.307, 122.950, 113.865)
PIXEL_STD = (62.993, 62.089, 66.705)

# Name -> mean, divisor and whether the channels are turned round: blue, green,
# red. caffe is what ImageNet's VGG16 was trained with, its means of ImageNet
# (keras.applications.imagenet_utils, mode "caffe").
PREPROCESSING: dict[str, tuple[Sequence[float], Sequence[float], bool]] = {
    "standardize": (PIXEL_MEAN, PIXEL_STD, False),
    "caffe": ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), True),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), False),
}

# The layer between the convolutions and the head.
_FEATURES = "features"

_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def vgg16(
    *,
    width: float = 1.0,
    stem_filters: int = 0,
    pooling: str = "max",
    batch_norm: bool = True,
    batch_norm_momentum: float = 0.9,
    batch_norm_epsilon: float = 1e-5,
    sync_batch_norm: bool = False,
    init: str = "he_fan_out",
    preprocessing: str = "standardize",
    input_size: int = 32,
    odd_maps: bool = False,
    head_pooling: str = "avg",
    head_units: Sequence[int] = (),
    dropout: float = 0.0,
    precision: str = "float32",
    for_cpu: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds the network.

    Args:
      width: multiplies the filters of every convolution.
      stem_filters: filters of the first block; 0: 64 * width.
      pooling: max or avg, at the end of each block.
      batch_norm: after each convolution; else the convolutions have biases.
      batch_norm_momentum: share of the old running moments that a step keeps.
      batch_norm_epsilon: added to the variance.
      sync_batch_norm: take the batch moments over all replicas.
      init: he_fan_out, glorot, torch or dirac; see `initializers`.
      preprocessing: of pixels; see `PREPROCESSING`.
      input_size: side s of the images, a multiple of 32; only with flatten
        does it change the weights, else the network takes every such size.
      odd_maps: take other sizes too: where a map's side is odd, pool its last
        row and column by themselves rather than drop them.
      head_pooling: avg or flatten, of the last block's map.
      head_units: units of the dense layers with ReLU before the logits.
      dropout: share of the units set to 0 after each of these layers, or of
        the features where there are none; 0 to 1, exclusive.
      precision: of the layers' arithmetic: float32, bfloat16 or float16.
        Variables, moments and logits are float32.
      for_cpu: train by what is quick on CPUs; see `convolution`. Variables
        and, up to rounding, results are the same.
      seed: of the initial weights.

    Returns:
      A model from uint8 or float [b, s, s, 3], 0 to 255, to a pair: float32
      [b, 10] logits, and a list with float32 [c] batch mean and [c] batch
      variance of each batch-normalization layer in turn, in the order of
      `model.non_trainable_variables`. With dropout it takes a list of two:
      images, and float32 [b, d] uniform random numbers, 0 to 1; d is
      `noise_width(model)`.
    """
    policy = keras.DTypePolicy(_POLICIES[precision])
    seeds = iter(np.random.SeedSequence([seed, 0x5647]).generate_state(64))
    kernel_init, bias_init, head_init = create_initializers(init)
    # In float32 oneDNN's own gradient is as quick.
    conv2d = (
        Convolution
        if for_cpu and precision == "bfloat16"
        else keras.layers.Conv2D
    )

    def convolution(
        x: keras.KerasTensor,
        filters: int,
        name: str,
    ) -> keras.KerasTensor:
        fan_in = 9 * x.shape[-1]
        x = conv2d(
            filters,
            3,
            padding="same",
            use_bias=not batch_norm,
            kernel_initializer=kernel_init(int(next(seeds))),
            bias_initializer=bias_init(int(next(seeds)), fan_in),
            dtype=policy,
            name=name,
        )(x)
        if batch_norm:
            x, mean, variance = BatchNormalization(
                momentum=batch_norm_momentum,
                epsilon=batch_norm_epsilon,
                synchronized=sync_batch_norm,
                dtype=policy,
                name=f"{name}_bn",
            )(x)
            moments.extend([mean, variance])
        return keras.layers.ReLU(dtype=policy, name=f"{name}_relu")(x)

    moments: list[keras.KerasTensor] = []
    pools = {
        "max": keras.layers.MaxPooling2D,
        "avg": keras.layers.AveragePooling2D,
    }
    # The head has to know the size of what it flattens; an average has not.
    side = input_size if head_pooling == "flatten" else None
    images = keras.Input((side, side, 3), dtype="float32", name="image")
    mean, divisor, turned = PREPROCESSING[preprocessing]
    x = Standardize(
        mean, divisor, turned=turned, dtype=policy, name="standardize"
    )(images)
    for block, (depth, base) in enumerate(BLOCKS, start=1):
        filters = max(1, round(base * width))
        if block == 1 and stem_filters:
            filters = stem_filters
        for conv in range(1, depth + 1):
            x = convolution(x, filters, f"block{block}_conv{conv}")
        x = pools[pooling](
            2,
            padding="same" if odd_maps else "valid",
            dtype=policy,
            name=f"block{block}_pool",
        )(x)
    if head_pooling == "flatten":
        x = keras.layers.Flatten(dtype=policy, name=_FEATURES)(x)
    else:
        # In float32: a mean over many pixels.
        x = keras.layers.GlobalAveragePooling2D(
            dtype="float32", name=_FEATURES
        )(x)

    def dense(
        x: keras.KerasTensor, units: int, name: str, activation: str | None
    ) -> keras.KerasTensor:
        return keras.layers.Dense(
            units,
            activation,
            kernel_initializer=head_init(int(next(seeds))),
            bias_initializer=bias_init(int(next(seeds)), x.shape[-1]),
            dtype=policy,
            name=name,
        )(x)

    widths = list(head_units) or [x.shape[-1]]
    noise = keras.Input((sum(widths),), dtype="float32", name="noise")
    used = 0
    for number, width in enumerate(widths, start=1):
        if head_units:
            x = dense(x, width, f"fc{number}", "relu")
        if dropout:
            x = Dropout(dropout, dtype=policy, name=f"dropout{number}")(
                x, noise[:, used : used + width]
            )
        used += width
    logits = dense(x, NUM_CLASSES, "logits", None)
    logits = keras.layers.Activation("linear", dtype="float32", name="float32")(
        logits
    )
    inputs = [images, noise] if dropout else images
    return keras.Model(inputs, (logits, moments), name="vgg16")


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts a network in two that share its weights.

    Args:
      model: as `vgg16` builds it, without batch normalization.

    Returns:
      Base, from images to [b, f] features, and head, from those (and noise,
      where there is dropout) to what `model` returns.
    """
    features = model.get_layer(_FEATURES).output
    images, *noise = model.inputs
    base = keras.Model(images, features, name="base")
    inputs = [features, *noise] if noise else features
    return base, keras.Model(inputs, (model.outputs[0], []), name="head")


def noise_width(model: keras.Model) -> int:
    """Returns how many random numbers an image's dropout takes; 0: none."""
    return model.inputs[1].shape[-1] if len(model.inputs) > 1 else 0
