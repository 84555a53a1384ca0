"""Scores images: in float32, every image exactly once.

The last batch is filled up, and what fills it counts for nothing.

    evaluator = Evaluator(strategy, split, network, resize, ...)
    scores = evaluator(state.evaluated())
    scores.accuracy
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from job.data import pipeline
from job.data.dataset import NUM_CLASSES, Split
from job.model.resize import Resize

# A call scores so many batches as fit into these seconds, so that a wish to
# stop is heard soon.
_CALL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Scores:
    """What `Evaluator` returns; shares are 0 to 1.

    Attributes:
      loss: mean cross-entropy, without label smoothing.
      accuracy: share of images whose likeliest class is right.
      accuracy_tta: the same with the mean of an image's and its mirror
        image's logits; None where it was not asked for.
      images: how many were scored.
      logits: float32 [images, 10], in the order of the split.
    """

    loss: float
    accuracy: float
    accuracy_tta: float | None
    images: int
    logits: np.ndarray = dataclasses.field(compare=False, repr=False)


class Evaluator:
    """Scores one split with whatever weights it is given."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        split: Split,
        model: keras.Model,
        resize: Resize,
        *,
        global_batch_size: int,
        agree: Callable[[int], int] = lambda group: group,
    ) -> None:
        """Prepares the pipeline; nothing is computed yet.

        Args:
          strategy: over whose replicas a batch is split.
          split: the images to score.
          model: as `vgg.vgg16` builds it, in float32, under `strategy`'s
            scope; its weights are overwritten.
          resize: what is done to images before; see `job.resize`.
          global_batch_size: images a step, a multiple of the replicas.
          agree: on the size of the next group of batches, among workers.
        """
        self._strategy = strategy
        self._count = len(split)
        self._agree = agree
        self._model = model
        self._resize = resize
        self._variables = [
            v.value
            for v in model.trainable_variables + model.non_trainable_variables
        ]
        self._steps = pipeline.eval_steps(len(split), global_batch_size)
        # Endless, and a whole number of evaluations long when it repeats.
        self._create_batches = lambda own: pipeline.eval_batches(
            split,
            global_batch_size=global_batch_size,
            num_replicas=strategy.num_replicas_in_sync,
            own_replicas=own,
        )
        self._batches: Iterator[pipeline.EvalBatch] | None = None
        self._sums = tf.function(self._sum_batches, autograph=False)

    def __call__(
        self,
        weights: Sequence[tf.Variable],
        *,
        tta: bool = False,
        poll: Callable[[], None] = lambda: None,
    ) -> Scores:
        """Scores all images.

        Args:
          weights: trainable variables, then running moments, as
            `TrainState.evaluated` returns them.
          tta: look at each mirror image too, at twice the cost.
          poll: called between two groups of batches, about each second; what
            it raises ends the evaluation.
        """
        for variable, weight in zip(self._variables, weights, strict=True):
            variable.assign(weight.read_value())
        # Only a whole evaluation leaves the iterator where the next may begin.
        batches = self._batches or pipeline.distribute(
            self._strategy, self._create_batches
        )
        self._batches = None
        sums = tf.zeros([4])
        parts = []
        done, group = 0, 1
        while done < self._steps:
            poll()
            group = self._agree(min(group, self._steps - done))
            start = time.perf_counter()
            sums, logits = self._sums(batches, sums, tf.constant(group), tta)
            parts.append(logits.numpy())  # Waits for the device.
            seconds = (time.perf_counter() - start) / group
            done += group
            group = max(1, int(_CALL_SECONDS / max(seconds, 1e-6)))
        self._batches = batches
        loss, correct, correct_tta, count = (float(s) for s in sums.numpy())
        return Scores(
            loss=loss / count,
            accuracy=correct / count,
            accuracy_tta=correct_tta / count if tta else None,
            images=round(count),
            logits=np.concatenate(parts)[: self._count],
        )

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        return self._model(self._resize(images), training=False)[0]

    def _sum_batches(
        self,
        batches: Iterator[pipeline.EvalBatch],
        sums: tf.Tensor,
        steps: tf.Tensor,
        tta: bool,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds `steps` batches to the float32 [4] sums, in order.

        Returns:
          The sums, and the batches' float32 [n, 10] logits, without mirrors.
        """

        def score(batch: pipeline.EvalBatch) -> tuple[tf.Tensor, tf.Tensor]:
            logits = self._logits(batch.image)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch.label, logits
            )
            both = logits
            if tta:
                mirrored = tf.reverse(batch.image, axis=[2])
                both = logits + self._logits(mirrored)
            parts = [
                loss * batch.mask,
                _correct(logits, batch.label) * batch.mask,
                _correct(both, batch.label) * batch.mask,
                batch.mask,
            ]
            # The others' rows are zeros: their sum is the batch, in its order,
            # on any number of workers.
            context = tf.distribute.get_replica_context()
            before = logits.shape[0] * context.replica_id_in_sync_group
            behind = logits.shape[0] * (context.num_replicas_in_sync - 1)
            rows = [[before, behind - before], [0, 0]]
            return (
                tf.reduce_sum(tf.stack(parts), axis=1),
                tf.pad(logits, rows),
            )

        def body(
            done: tf.Tensor, sums: tf.Tensor, kept: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
            per_replica = self._strategy.run(score, args=(next(batches),))
            added, logits = (
                self._strategy.reduce(
                    tf.distribute.ReduceOp.SUM, value, axis=None
                )
                for value in per_replica
            )
            return done + 1, sums + added, kept.write(done, logits)

        _, sums, kept = tf.while_loop(
            lambda done, *_: done < steps,
            body,
            (
                tf.constant(0),
                sums,
                tf.TensorArray(
                    tf.float32, steps, element_shape=[None, NUM_CLASSES]
                ),
            ),
            parallel_iterations=1,
        )
        return sums, kept.concat()


def _correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(tf.equal(predicted, labels), tf.float32)
