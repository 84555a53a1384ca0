"""Variables of a training run, all of which are part of a checkpoint.

A resumed run has the same results as an uninterrupted one.

    with strategy.scope():
        state = TrainState(network, averaging=True, loss_scaling=False)
    state.snapshot()               # {"model/block1_conv1/kernel": array, ...}
"""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Initial loss scale (Micikevicius et al. 2018, arXiv:1710.03740).
_INITIAL_LOSS_SCALE = 2.0**15


class TrainState:
    """Variables of a run, to be created under `strategy.scope()`.

    All variables are float32 or int64, and equal on all replicas between two
    steps.

    Attributes:
      model: Network to train.
      trainable: Trainable variables of the network.
      moving_statistics: Moving mean and variance of each normalization layer.
      step: Number of completed steps, int64 [].
      momentum: Momentum of each trainable variable, or its first moment with
        Adam.
      second_moment: Second moment of each trainable variable. Empty unless the
        optimizer is Adam.
      ema: Average of each trainable variable and each moving statistic. Empty
        without averaging.
      window: Sums since the last logged step: "loss" (means of the steps),
        "correct" (examples) and "steps". They are part of a checkpoint, so that
        a kill does not change the metrics log.
      loss_scale: Variables "scale", and "good_steps" since its last change.
        Empty unless the precision is float16.
      first_bad_step: First step whose loss or gradient is not finite, int64 [],
        or -1.
      learning_rate_factor: Multiplier of the scheduled learning rate, float32
        [], below 1 after a rollback.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        averaging: bool,
        loss_scaling: bool,
        adam: bool = False,
    ) -> None:
        """Creates the variables for step 0.

        Args:
          model: Network of `vgg.vgg16`.
          averaging: Whether to keep averages of the weights.
          loss_scaling: Whether to scale the loss, for float16.
          adam: Whether the optimizer is Adam.
        """
        self.model = model
        self.trainable = [v.value for v in model.trainable_variables]
        self.moving_statistics = [
            v.value for v in model.non_trainable_variables
        ]
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.first_bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.learning_rate_factor = tf.Variable(1.0, trainable=False)
        self.window = {
            name: tf.Variable(0.0, trainable=False)
            for name in ("loss", "correct", "steps")
        }
        self.loss_scale = (
            {
                "scale": tf.Variable(_INITIAL_LOSS_SCALE, trainable=False),
                "good_steps": tf.Variable(0.0, trainable=False),
            }
            if loss_scaling
            else {}
        )
        self.momentum = [
            tf.Variable(tf.zeros(v.shape), trainable=False)
            for v in self.trainable
        ]
        self.second_moment = [
            tf.Variable(tf.zeros(v.shape), trainable=False)
            for v in (self.trainable if adam else [])
        ]
        averaged = self.trainable + self.moving_statistics if averaging else []
        self.ema = [
            tf.Variable(v.read_value(), trainable=False) for v in averaged
        ]

    def variables(self) -> dict[str, tf.Variable]:
        """Returns all variables by their names in a checkpoint."""
        trainable = [v.path for v in self.model.trainable_variables]
        moving = [v.path for v in self.model.non_trainable_variables]
        named = {
            "step": self.step,
            "first_bad_step": self.first_bad_step,
            "learning_rate_factor": self.learning_rate_factor,
        }
        named |= {f"window/{k}": v for k, v in self.window.items()}
        named |= {f"loss_scale/{k}": v for k, v in self.loss_scale.items()}
        groups = {
            "model": (
                trainable + moving,
                self.trainable + self.moving_statistics,
            ),
            "momentum": (trainable, self.momentum),
            "second_moment": (
                trainable if self.second_moment else [],
                self.second_moment,
            ),
            "ema": (trainable + moving if self.ema else [], self.ema),
        }
        for group, (paths, variables) in groups.items():
            for path, variable in zip(paths, variables, strict=True):
                named[f"{group}/{path}"] = variable
        return named

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns copies of all variables in host memory, by name."""
        return {name: v.numpy() for name, v in self.variables().items()}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """Sets all variables on all replicas.

        Args:
          tensors: Values of all variables by name; see `snapshot`.

        Raises:
          ValueError: A variable is missing or unknown, or has another shape or
            type. No variable is set.
        """
        named = self.variables()
        wrong = [
            f"{name} is missing"
            for name in sorted(named.keys() - tensors.keys())
        ]
        wrong += [
            f"{name} is unknown"
            for name in sorted(tensors.keys() - named.keys())
        ]
        for name in sorted(named.keys() & tensors.keys()):
            have, want = tensors[name], named[name]
            if have.shape != tuple(want.shape) or have.dtype != want.dtype:
                wrong.append(
                    f"{name} is {have.dtype} {list(have.shape)}, not"
                    f" {want.dtype.name} {want.shape.as_list()}"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        for name, variable in named.items():
            variable.assign(tensors[name])

    def load_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Sets some weights and their averages before the first step.

        Args:
          weights: Weights by path, such as block1_conv1/kernel, float32.

        Raises:
          ValueError: A weight is unknown or has another shape.
        """
        paths = [v.path for v in self.model.trainable_variables]
        for path, value in weights.items():
            if path not in paths:
                raise ValueError(f"{path} is unknown")
            index = paths.index(path)
            if self.trainable[index].shape != value.shape:
                raise ValueError(
                    f"{path} is {list(value.shape)}, not"
                    f" {self.trainable[index].shape.as_list()}"
                )
            self.trainable[index].assign(value)
            if self.ema:
                self.ema[index].assign(value)

    def evaluated(self) -> list[tf.Variable]:
        """Returns the variables for an evaluation, as averages if any.

        The trainable variables come first, then the moving statistics.
        """
        return self.ema or self.trainable + self.moving_statistics

    def replica_variables(self) -> "ReplicaVariables":
        """Returns the variables that an update changes, except `step`."""
        return ReplicaVariables(
            self.trainable,
            self.moving_statistics,
            self.momentum,
            self.second_moment,
            self.ema,
            self.window,
            self.loss_scale,
            self.first_bad_step,
            self.learning_rate_factor,
        )


class ReplicaVariables(NamedTuple):
    """Variables of a state except `step`, or one replica's copies of them.

    The fields are those of `TrainState`.
    """

    trainable: list[tf.Variable]
    moving_statistics: list[tf.Variable]
    momentum: list[tf.Variable]
    second_moment: list[tf.Variable]
    ema: list[tf.Variable]
    window: dict[str, tf.Variable]
    loss_scale: dict[str, tf.Variable]
    first_bad_step: tf.Variable
    learning_rate_factor: tf.Variable


def load_evaluated(
    network: keras.Model, tensors: Mapping[str, np.ndarray]
) -> None:
    """Sets a network to the evaluated weights of a checkpoint.

    These are the averages if the checkpoint has any.

    Args:
      network: Network of `vgg.vgg16`.
      tensors: Tensors of the checkpoint; see `TrainState.snapshot`.

    Raises:
      KeyError: The checkpoint lacks a weight, which the argument names.
    """
    for variable in (
        network.trainable_variables + network.non_trainable_variables
    ):
        name = f"ema/{variable.path}"
        if name not in tensors:
            name = f"model/{variable.path}"
        value = tensors.get(name)
        if value is None or value.shape != tuple(variable.shape):
            raise KeyError(name)
        variable.assign(value)
