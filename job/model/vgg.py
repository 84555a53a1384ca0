"""VGG16 (Simonyan & Zisserman, arXiv:1409.1556) and its form for 32 pixels.

The network has blocks of 2, 2, 3, 3 and 3 convolutions, each with ReLU and
optional batch normalization. Each block ends with a pooling layer. The input is
raw pixels, 0 to 255, because the first layer standardizes them.

    network = vgg16(width=1.0, precision="bfloat16", seed=0, ...)
    logits, statistics = network(images, training=True)
    base, head = split_base_and_head(network)

In training a batch-normalization layer returns its batch statistics instead of
assigning them. The forward pass is therefore pure, and the step sums statistics
and gradients over the replicas at once. For the same reason dropout takes its
random numbers as an input.
"""

import functools
from collections.abc import Callable, Sequence

import keras

from job.data.dataset import PIXEL_MEAN, PIXEL_STD
from job.model.convolution import Convolution
from job.model.initializers import Initializers
from job.model.layers import BatchNormalization, Dropout, Standardize
from job.model.pooling import MaxPooling
from job.model.spec import BLOCK_NAMES, VGG16, Block, block_filters

# Name -> mean, divisor and whether the channels are reversed to BGR. ImageNet's
# VGG16 was trained with caffe, with the means of ImageNet
# (keras.applications.imagenet_utils, mode "caffe").
PREPROCESSING: dict[str, tuple[Sequence[float], Sequence[float], bool]] = {
    "standardize": (PIXEL_MEAN, PIXEL_STD, False),
    "caffe": ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), True),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), False),
}

# Name of the layer between the convolutions and the head.
_FEATURES = "features"

_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}

# Kind of pooling and whether XLA compiles it -> layer.
_POOLING_LAYERS = {
    ("max", False): keras.layers.MaxPooling2D,
    ("max", True): MaxPooling,
    ("avg", False): keras.layers.AveragePooling2D,
    ("avg", True): keras.layers.AveragePooling2D,
}

_Layer = Callable[..., keras.layers.Layer]


def vgg16(
    *,
    blocks: Sequence[Block] = VGG16,
    num_classes: int = 10,
    width: float = 1.0,
    stem_filters: int = 0,
    pooling: str = "max",
    pool_padding: str = "valid",
    batch_norm: bool = True,
    batch_norm_momentum: float = 0.9,
    batch_norm_epsilon: float = 1e-5,
    sync_batch_norm: bool = False,
    init: str = "he_fan_out",
    preprocessing: str = "standardize",
    input_size: int = 32,
    head_pooling: str = "avg",
    head_units: Sequence[int] = (),
    dropout: float = 0.0,
    precision: str = "float32",
    for_cpu: bool = False,
    for_xla: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds the network.

    Args:
      blocks: Depth and filters of each block. Defaults to VGG16. Other depths
        give the other networks of the paper.
      num_classes: Number of logits, k.
      width: Multiplier of the filters of every convolution, above 0.
      stem_filters: Filters of the first block. If 0, 64 * width.
      pooling: Pooling layer at the end of each block, max or avg.
      pool_padding: Padding of the pooling layers, valid or same. With same, the
        network also takes image sizes that are not a multiple of 32.
      batch_norm: Whether batch normalization follows each convolution. If
        False, the convolutions have biases.
      batch_norm_momentum: Momentum of the moving statistics, 0 to 1.
      batch_norm_epsilon: Number added to the variance.
      sync_batch_norm: Whether to compute batch statistics over all replicas.
      init: Initial weights; see `initializers.Initializers`.
      preprocessing: Standardization of the pixels, a key of `PREPROCESSING`.
      input_size: Height and width of the images, s, a multiple of 32. Without
        head_pooling="flatten" the network takes any multiple of 32.
      head_pooling: Reduction of the last feature map, avg or flatten.
      head_units: Units of the dense ReLU layers before the logits.
      dropout: Dropout rate after each of these layers, or of the features
        without any, from 0 to below 1.
      precision: Precision of the layers: float32, bfloat16 or float16.
        Variables, statistics and logits are float32.
      for_cpu: Whether to use the operations that train fastest on CPUs; see
        `convolution`. The variables and, up to rounding, the results are equal.
      for_xla: Whether to use the operations that train fastest under XLA on a
        GPU; see `pooling`. The results are equal.
      seed: Seed of the initial weights.

    Returns:
      A model from uint8 or float [b, s, s, 3] images, 0 to 255, to float32
      [b, k] logits and a list of batch statistics. The list has the float32 [c]
      mean and [c] variance of each batch-normalization layer, in the order of
      `non_trainable_variables`. With dropout the second input is float32 [b, d]
      uniform random numbers, 0 to 1, where d is `noise_width(model)`.
    """
    policy = keras.DTypePolicy(_POLICIES[precision])
    initializers = Initializers(
        init,
        seed=seed,
        num_layers=sum(block.depth for block in blocks) + len(head_units) + 1,
    )
    convolution = functools.partial(
        # In float32 the filter gradient of oneDNN is as fast.
        Convolution
        if for_cpu and precision == "bfloat16"
        else keras.layers.Conv2D,
        kernel_size=3,
        padding="same",
        use_bias=not batch_norm,
    )
    normalization = functools.partial(
        BatchNormalization,
        momentum=batch_norm_momentum,
        epsilon=batch_norm_epsilon,
        synchronized=sync_batch_norm,
    )
    # A head on a flattened feature map needs a fixed size.
    size = input_size if head_pooling == "flatten" else None
    images = keras.Input((size, size, 3), dtype="float32", name="image")
    x = _standardize(images, preprocessing, policy)
    statistics: list[keras.KerasTensor] = []
    for name, block, filters in zip(
        BLOCK_NAMES,
        blocks,
        block_filters(blocks, width=width, stem_filters=stem_filters),
        strict=True,
    ):
        x, batch_statistics = _convolutions(
            x,
            name,
            depth=block.depth,
            filters=filters,
            convolution=convolution,
            normalization=normalization if batch_norm else None,
            initializers=initializers,
            policy=policy,
        )
        statistics += batch_statistics
        x = _POOLING_LAYERS[pooling, for_xla](
            2, padding=pool_padding, dtype=policy, name=f"{name}_pool"
        )(x)
    logits, noise = _head(
        _pool_features(x, head_pooling, policy),
        head_units,
        num_classes,
        dropout=dropout,
        initializers=initializers,
        policy=policy,
    )
    inputs = images if noise is None else [images, noise]
    return keras.Model(inputs, (logits, statistics), name="vgg16")


def _standardize(
    images: keras.KerasTensor, preprocessing: str, policy: keras.DTypePolicy
) -> keras.KerasTensor:
    """Standardizes pixels, 0 to 255; see `PREPROCESSING`."""
    mean, divisor, bgr = PREPROCESSING[preprocessing]
    return Standardize(
        mean, divisor, bgr=bgr, dtype=policy, name="standardize"
    )(images)


def _convolutions(
    x: keras.KerasTensor,
    block: str,
    *,
    depth: int,
    filters: int,
    convolution: _Layer,
    normalization: _Layer | None,
    initializers: Initializers,
    policy: keras.DTypePolicy,
) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    """Adds the convolutions of a block.

    Args:
      x: Input, [b, h, w, c].
      block: Name of the block.
      depth: Number of convolutions.
      filters: Filters of each convolution, f.
      convolution: Constructor of a convolution.
      normalization: Constructor of the batch normalization. If None, it is left
        out.
      initializers: Source of the initial weights.
      policy: Data types of the layers.

    Returns:
      Output [b, h, w, f], and the batch statistics in the order of the layers.
    """
    statistics = []
    for number in range(1, depth + 1):
        name = f"{block}_conv{number}"
        x = convolution(
            filters=filters,
            **initializers.convolution(fan_in=9 * x.shape[-1]),
            dtype=policy,
            name=name,
        )(x)
        if normalization is not None:
            x, mean, variance = normalization(dtype=policy, name=f"{name}_bn")(
                x
            )
            statistics += [mean, variance]
        x = keras.layers.ReLU(dtype=policy, name=f"{name}_relu")(x)
    return x, statistics


def _pool_features(
    x: keras.KerasTensor, head_pooling: str, policy: keras.DTypePolicy
) -> keras.KerasTensor:
    """Reduces the last feature map, [b, h, w, c], to [b, f] features."""
    if head_pooling == "flatten":
        return keras.layers.Flatten(dtype=policy, name=_FEATURES)(x)
    # float32 is needed, because it is a mean over many pixels.
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name=_FEATURES)(
        x
    )


def _head(
    features: keras.KerasTensor,
    head_units: Sequence[int],
    num_classes: int,
    *,
    dropout: float,
    initializers: Initializers,
    policy: keras.DTypePolicy,
) -> tuple[keras.KerasTensor, keras.KerasTensor | None]:
    """Adds the dense layers.

    Args:
      features: Input, [b, f].
      head_units: Units of the dense ReLU layers before the logits.
      num_classes: Number of logits, k.
      dropout: Dropout rate, from 0 to below 1.
      initializers: Source of the initial weights.
      policy: Data types of the layers.

    Returns:
      float32 [b, k] logits, and the input for dropout's random numbers, or
      None.
    """

    def dense(
        x: keras.KerasTensor, units: int, name: str, activation: str | None
    ) -> keras.KerasTensor:
        return keras.layers.Dense(
            units,
            activation,
            **initializers.dense(fan_in=x.shape[-1]),
            dtype=policy,
            name=name,
        )(x)

    x = features
    dropped_units = list(head_units) or [features.shape[-1]]
    noise = None
    if dropout:
        noise = keras.Input(
            (sum(dropped_units),), dtype="float32", name="noise"
        )
    used = 0
    for number, units in enumerate(dropped_units, start=1):
        if head_units:
            x = dense(x, units, f"fc{number}", "relu")
        if noise is not None:
            x = Dropout(dropout, dtype=policy, name=f"dropout{number}")(
                x, noise[:, used : used + units]
            )
        used += units
    logits = dense(x, num_classes, "logits", None)
    logits = keras.layers.Activation("linear", dtype="float32", name="float32")(
        logits
    )
    return logits, noise


def split_base_and_head(
    network: keras.Model,
) -> tuple[keras.Model, keras.Model]:
    """Splits a network into a base and a head, which share its weights.

    Args:
      network: Network of `vgg16`, without batch normalization.

    Returns:
      The base, from images to [b, f] features, and the head, from the features
      to the outputs of `network`. With dropout the head has a second input, the
      random numbers.
    """
    features = network.get_layer(_FEATURES).output
    images, *noise = network.inputs
    base = keras.Model(images, features, name="base")
    inputs = [features, *noise] if noise else features
    return base, keras.Model(inputs, (network.outputs[0], []), name="head")


def noise_width(network: keras.Model) -> int:
    """Returns the number of random numbers per image for dropout, or 0."""
    return network.inputs[1].shape[-1] if len(network.inputs) > 1 else 0
