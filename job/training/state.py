"""Every variable of a run: what a checkpoint holds, and nothing else.

Whatever a later start must know to go on as if there had been no stop.

    with strategy.scope():
        state = TrainState(model, averaging=True, loss_scaling=False)
    state.snapshot()               # {"model/block1_conv1/kernel": array, ...}
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

# Where dynamic loss scaling starts (Micikevicius et al. 2018,
# arXiv:1710.03740).
_FIRST_LOSS_SCALE = 2.0**15


class TrainState:
    """The variables of a run.

    Create it under `strategy.scope()`. All variables are float32 or int64, and
    equal on all replicas between two steps.

    Attributes:
      model: the network that is trained.
      step: int64 [], steps done.
      momentum: a buffer for each trainable variable; of Adam, its first
        moment.
      second_moment: likewise, for Adam only; else empty.
      ema: an average of each trainable and each running variable; empty where
        there is no averaging.
      window: sums since the last logged step: "loss" (of the steps' means),
        "correct" (examples), "steps". In the checkpoint, so that a line that
        was begun before a kill is finished as if there had been none.
      loss_scale: "scale", and "good_steps" since it changed; float16 only.
      first_bad_step: int64 [], step whose loss or gradient was not finite; -1.
      learning_rate_factor: float32 [], times the schedule's rate: 1; less
        after a rollback.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        averaging: bool,
        loss_scaling: bool,
        adam: bool = False,
    ) -> None:
        self.model = model
        self.trainable = [v.value for v in model.trainable_variables]
        self.running = [v.value for v in model.non_trainable_variables]
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.first_bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.learning_rate_factor = tf.Variable(1.0, trainable=False)
        self.window = {
            name: tf.Variable(0.0, trainable=False)
            for name in ("loss", "correct", "steps")
        }
        self.loss_scale = (
            {
                "scale": tf.Variable(_FIRST_LOSS_SCALE, trainable=False),
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
        averaged = self.trainable + self.running if averaging else []
        self.ema = [
            tf.Variable(v.read_value(), trainable=False) for v in averaged
        ]

    def variables(self) -> dict[str, tf.Variable]:
        """Returns every variable by the name that checkpoints give it."""
        trainable = [v.path for v in self.model.trainable_variables]
        running = [v.path for v in self.model.non_trainable_variables]
        named = {
            "step": self.step,
            "first_bad_step": self.first_bad_step,
            "learning_rate_factor": self.learning_rate_factor,
        }
        named |= {f"window/{k}": v for k, v in self.window.items()}
        named |= {f"loss_scale/{k}": v for k, v in self.loss_scale.items()}
        groups = {
            "model": (trainable + running, self.trainable + self.running),
            "momentum": (trainable, self.momentum),
            "second_moment": (
                trainable if self.second_moment else [],
                self.second_moment,
            ),
            "ema": (trainable + running if self.ema else [], self.ema),
        }
        for group, (paths, variables) in groups.items():
            for path, variable in zip(paths, variables, strict=True):
                named[f"{group}/{path}"] = variable
        return named

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns a copy of every variable, in host memory."""
        return {name: v.numpy() for name, v in self.variables().items()}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """Sets every variable, on every replica.

        Raises:
          ValueError: a variable is missing, is one too many, or has another
            shape or type; nothing has been set then. The message names them.
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
        """Sets some weights, and their averages, before the first step.

        Args:
          weights: float32 arrays by path, such as block1_conv1/kernel.

        Raises:
          ValueError: the model has no such weight, or of another shape.
        """
        paths = [v.path for v in self.model.trainable_variables]
        for path, value in weights.items():
            if path not in paths:
                raise ValueError(f"the model has no {path}")
            place = paths.index(path)
            if self.trainable[place].shape != value.shape:
                raise ValueError(
                    f"{path} is {list(value.shape)}, not"
                    f" {self.trainable[place].shape.as_list()}"
                )
            self.trainable[place].assign(value)
            if self.ema:
                self.ema[place].assign(value)

    def evaluated(self) -> list[tf.Variable]:
        """Returns the weights and moments to score: averages, if any."""
        return self.ema or self.trainable + self.running

    def replicated(self) -> "Replicated":
        """Returns the variables in the form that `Replicated` describes."""
        return Replicated(
            self.trainable,
            self.running,
            self.momentum,
            self.second_moment,
            self.ema,
            self.window,
            self.loss_scale,
            self.first_bad_step,
            self.learning_rate_factor,
        )


@dataclasses.dataclass(frozen=True)
class Replicated:
    """A state's variables but `step`, or one replica's copies of them.

    The fields are those of `TrainState`.
    """

    trainable: list[tf.Variable]
    running: list[tf.Variable]
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
    """Gives a network the weights of a checkpoint that an evaluation scores.

    Those are the averaged ones where there are any.

    Args:
      network: as `vgg.vgg16` builds it.
      tensors: of the checkpoint; see `TrainState.snapshot`.

    Raises:
      KeyError: the checkpoint is of another network; which weight it lacks.
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
