"""Evaluation of a split in float32, with every image exactly once.

The last batch is padded, and a mask removes the padding from the scores.

    evaluator = Evaluator(strategy, split, network, resize, ...)
    scores = evaluator(state.evaluated())
    scores.accuracy
"""

import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from job.data import pipeline
from job.data.dataset import Split
from job.model.resize import Resize
from job.output.results import Scores

# Duration of a call, which delays the response to a stop request.
_CALL_SECONDS = 1.0


class Evaluator:
    """Evaluator of any weights on one split."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        split: Split,
        model: keras.Model,
        resize: Resize,
        *,
        global_batch_size: int,
        broadcast_batch_count: Callable[[int], int] = lambda count: count,
    ) -> None:
        """Creates the pipeline without computing anything.

        Args:
          strategy: Strategy over whose replicas a batch is split.
          split: Images and labels.
          model: Network of `vgg.vgg16`, in float32, created under the scope of
            `strategy`. Its weights are overwritten.
          resize: Scaling of the images before the network; see `model.resize`.
          global_batch_size: Images per step, a multiple of the number of
            replicas.
          broadcast_batch_count: Function from this worker's number of batches
            for the next call to the number that all workers use.
        """
        self._strategy = strategy
        self._count = len(split)
        self._broadcast_batch_count = broadcast_batch_count
        self._model = model
        self._resize = resize
        self._variables = [
            v.value
            for v in model.trainable_variables + model.non_trainable_variables
        ]
        self._steps = pipeline.eval_steps(len(split), global_batch_size)
        # The pipeline repeats after each complete evaluation.
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
        """Evaluates weights on all images.

        Args:
          weights: Trainable variables, then moving statistics; see
            `TrainState.evaluated`.
          tta: Whether to score the flipped images too, at twice the cost.
          poll: Function called about every second. An exception that it raises
            ends the evaluation.
        """
        for variable, weight in zip(self._variables, weights, strict=True):
            variable.assign(weight.read_value())
        # After an incomplete evaluation the iterator is not at its first image.
        batches = self._batches or pipeline.distribute(
            self._strategy, self._create_batches
        )
        self._batches = None
        sums = tf.zeros([4])
        parts = []
        done, group = 0, 1
        while done < self._steps:
            poll()
            group = self._broadcast_batch_count(min(group, self._steps - done))
            start = time.perf_counter()
            sums, logits = self._sums(batches, sums, tf.constant(group), tta)
            parts.append(logits.numpy())  # This waits for the device.
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
        """Adds the scores of some batches, in order.

        Args:
          batches: Iterator over batches.
          sums: Sums of loss, correct predictions, correct predictions with
            flips, and images, float32 [4].
          steps: Number of batches, int32 [].
          tta: Whether to score the flipped images too.

        Returns:
          The sums, and the logits of the batches without flips, float32 [n, k].
        """
        num_classes = self._model.outputs[0].shape[-1]

        def score(batch: pipeline.EvalBatch) -> tuple[tf.Tensor, tf.Tensor]:
            logits = self._logits(batch.image)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch.label, logits
            )
            both = logits
            if tta:
                flipped = tf.reverse(batch.image, axis=[2])
                both = logits + self._logits(flipped)
            parts = [
                loss * batch.mask,
                _correct(logits, batch.label) * batch.mask,
                _correct(both, batch.label) * batch.mask,
                batch.mask,
            ]
            # The rows of other replicas are zeros, so the sum is the batch in
            # order, with any number of workers.
            context = tf.distribute.get_replica_context()
            before = logits.shape[0] * context.replica_id_in_sync_group
            others = logits.shape[0] * (context.num_replicas_in_sync - 1)
            rows = [[before, others - before], [0, 0]]
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
                    tf.float32, steps, element_shape=[None, num_classes]
                ),
            ),
            parallel_iterations=1,
        )
        return sums, kept.concat()


def _correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(tf.equal(predicted, labels), tf.float32)
