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

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from job.data.dataset import NUM_CLASSES
from job.model.convolution import Convolution

# Convolutions and filters of each block.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

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

HEAD = "head"
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
      init: he_fan_out, glorot, torch or dirac; see `_initializers`.
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
    kernel_init, bias_init, head_init = _initializers(init)
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


def blocks(model: keras.Model) -> list[str]:
    """Returns of each trainable variable its block: block1 to block5, HEAD."""
    return [_block(v.path.split("/")[-2]) for v in model.trainable_variables]


def _block(layer: str) -> str:
    return layer.split("_")[0] if layer.startswith("block") else HEAD


def gflop(model: keras.Model, size: int) -> dict[str, float]:
    """Returns what one image costs, forward, in 10^9 operations.

    A multiplication and an addition are two; what is not a matrix product is
    left out, being little. Backward is twice that: once towards the input,
    once towards the weights.

    Args:
      model: as `vgg16` builds it.
      size: side of the images in pixels.

    Returns:
      By block; see `blocks`.
    """
    costs: dict[str, float] = {}
    for layer in model.layers:
        block = _block(layer.name)
        if isinstance(layer, keras.layers.Conv2D):
            # Rounded up, as with `odd_maps`.
            side = -(-size >> int(block[-1]) - 1)
            outputs = side**2
        elif isinstance(layer, keras.layers.Dense):
            outputs = 1
        else:
            continue
        products = outputs * int(np.prod(layer.kernel.shape))
        costs[block] = costs.get(block, 0.0) + 2e-9 * products
    return costs


def decayed(model: keras.Model) -> list[bool]:
    """Says of each trainable variable whether weight decay applies: kernels."""
    return [v.name == "kernel" for v in model.trainable_variables]


def running_momentum(model: keras.Model) -> float:
    """Returns the momentum of the running moments; 0.0 where there are none."""
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            return layer.momentum
    return 0.0


class Standardize(keras.layers.Layer):
    """(pixel - mean) / divisor, each channel by its own, in float32."""

    def __init__(
        self,
        mean: Sequence[float],
        divisor: Sequence[float],
        *,
        turned: bool = False,
        **kwargs: Any,
    ) -> None:
        """Creates the layer.

        Args:
          mean: a number a channel, 0 to 255, in the order that goes out.
          divisor: likewise.
          turned: red, green, blue come in and blue, green, red go out.
          **kwargs: as of every Keras layer.
        """
        super().__init__(**kwargs)
        self.mean, self.divisor = tuple(mean), tuple(divisor)
        self.turned = turned

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Takes [b, h, w, 3], 0 to 255; gives its shape, compute dtype."""
        images = tf.cast(images, tf.float32)
        if self.turned:
            # A reversal is a copy on its own; this joins what follows.
            images = tf.stack(tf.unstack(images, axis=-1)[::-1], axis=-1)
        scaled = (images - tf.constant(self.mean)) / tf.constant(self.divisor)
        return tf.cast(scaled, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mean": self.mean,
            "divisor": self.divisor,
            "turned": self.turned,
        }


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) with random numbers from outside.

    Keras' own layer keeps its generator in a variable, with the same start on
    each replica: all replicas would drop the same units, and a resume others
    than the uninterrupted run.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(
        self, x: tf.Tensor, noise: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Sets units to 0 where the noise is below the rate, in training.

        Args:
          x: [b, d], any float type.
          noise: float32 [b, d], uniform over 0 to 1.
          training: else x is returned as it is.
        """
        if not training:
            return x
        kept = x / tf.cast(1 - self.rate, x.dtype)
        return tf.where(noise >= self.rate, kept, tf.zeros([], x.dtype))

    def compute_output_spec(
        self,
        x: keras.KerasTensor,
        noise: keras.KerasTensor,
        training: bool = False,
    ) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


class BatchNormalization(keras.layers.Layer):
    """Batch normalization on TensorFlow's fused kernel (Ioffe & Szegedy 2015).

    Keras 3's own layer is made of separate operations; the fused kernel is
    faster, and takes bfloat16 in and out with float32 moments. The layer's
    running moments are assigned by the step, not here.
    """

    def __init__(
        self,
        *,
        momentum: float,
        epsilon: float,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.synchronized = synchronized

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (input_shape[-1],)

        def weight(name: str, value: str, trainable: bool) -> keras.Variable:
            return self.add_weight(
                shape=shape,
                initializer=value,
                trainable=trainable,
                name=name,
                dtype="float32",
                autocast=False,
            )

        self.gamma = weight("gamma", "ones", True)
        self.beta = weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)

    def call(
        self, x: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalizes over all axes but the last.

        Args:
          x: [b, h, w, c], any float type.
          training: use the batch's moments, else the running ones.

        Returns:
          x normalized, of its shape and type, and the float32 [c] mean and
          [c] variance (with Bessel's correction) of the batch. Not in
          training, those are the running ones.
        """
        if training and self.synchronized:
            return self._call_synchronized(x)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma,
            offset=self.beta,
            # In training the kernel wants them empty to start from nothing.
            mean=[] if training else self.moving_mean,
            variance=[] if training else self.moving_variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format="NHWC",
            is_training=training,
        )
        if not training:
            mean, variance = (
                tf.convert_to_tensor(self.moving_mean),
                tf.convert_to_tensor(self.moving_variance),
            )
        return y, mean, variance

    def _call_synchronized(
        self, x: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes the moments over the global batch, in two passes.

        One pass, of x and of x squared, would do and would lose half the
        digits. Each image's mean is gathered from all replicas and only then
        are the images summed, in the global batch's order: so the sum rounds
        the same whatever the number of replicas, and so do all activations.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        replica = context.replica_id_in_sync_group

        def mean_over_global_batch(value: tf.Tensor) -> tf.Tensor:
            value = tf.reduce_mean(value, axis=[1, 2])
            if replicas > 1:
                # Gathers by a sum with zeros, which is exact; all_gather would
                # do, but its collectives of two strategies in a process
                # collide.
                before = value.shape[0] * replica
                after = value.shape[0] * (replicas - 1) - before
                value = tf.pad(value, [[before, after], [0, 0]])
                value = context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            return tf.reduce_mean(value, axis=0)

        wide = tf.cast(x, tf.float32)
        mean = mean_over_global_batch(wide)
        centred = wide - mean
        variance = mean_over_global_batch(tf.square(centred))
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        y = tf.cast(centred * scale + self.beta, x.dtype)
        count = tf.cast(tf.size(x) // x.shape[-1] * replicas, tf.float32)
        return y, mean, variance * (count / tf.maximum(count - 1, 1))

    def compute_output_spec(
        self, x: keras.KerasTensor, training: bool = False
    ) -> tuple[keras.KerasTensor, ...]:
        # Two objects: Keras tells a layer's outputs apart by their identity.
        mean, variance = (
            keras.KerasTensor((x.shape[-1],), dtype="float32") for _ in range(2)
        )
        y = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return y, mean, variance

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "synchronized": self.synchronized,
        }


class _Dirac(keras.initializers.Initializer):
    """Hands channels on by the first filters; draws the others."""

    def __init__(self, others: keras.Initializer) -> None:
        self._others = others

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns [h, w, c, f], h and w odd; filter i < c passes channel i."""
        kernel = np.array(self._others(shape, dtype))
        height, width, channels, filters = shape
        passing = min(channels, filters)
        kernel[..., :passing] = 0.0
        index = np.arange(passing)
        kernel[height // 2, width // 2, index, index] = 1.0
        return tf.constant(kernel)


def _initializers(init: str) -> tuple[Callable, Callable, Callable]:
    """Returns functions that make initializers of kernels, biases and the head.

    he_fan_out: N(0, 2 / fan_out) for kernels, N(0, .01^2) for the head (as
      torchvision's VGG; He et al. 2015, arXiv:1502.01852).
    glorot: uniform, by fan_in and fan_out, as Keras does by itself.
    torch: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for all of them, biases
      too, as PyTorch does by itself.
    dirac: he_fan_out, but the first filters of a convolution, one for each
      channel that comes in, hand that channel on unchanged, so that a deep
      network starts as a shallow one (Zagoruyko & Komodakis 2017, DiracNets;
      in part as here: Jordan 2024, arXiv:2404.00498).
    """
    initializers = keras.initializers

    def zeros(seed: int, fan_in: int) -> keras.Initializer:
        return initializers.Zeros()

    def torch_bias(seed: int, fan_in: int) -> keras.Initializer:
        limit = fan_in**-0.5
        return initializers.RandomUniform(-limit, limit, seed=seed)

    def he(seed: int) -> keras.Initializer:
        return initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal", seed=seed
        )

    def dirac(seed: int) -> keras.Initializer:
        return _Dirac(he(seed))

    def small_normal(seed: int) -> keras.Initializer:
        return initializers.RandomNormal(stddev=0.01, seed=seed)

    def glorot(seed: int) -> keras.Initializer:
        return initializers.GlorotUniform(seed=seed)

    def torch_kernel(seed: int) -> keras.Initializer:
        return initializers.VarianceScaling(
            1 / 3, "fan_in", "uniform", seed=seed
        )

    return {
        "he_fan_out": (he, zeros, small_normal),
        "dirac": (dirac, zeros, small_normal),
        "glorot": (glorot, zeros, glorot),
        "torch": (torch_kernel, torch_bias, torch_kernel),
    }[init]
