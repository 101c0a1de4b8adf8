"""One optimizer step of a replica, with its gradients summed before they are applied.

Keras's own step passes the gradient of a replica to the optimizer, which clips it and
then sums over the replicas. Here it is summed first, only over the entries that are
updated, so that `--clip_norm` applies to the gradient of the whole batch. The gradient
may be computed from several parts of a batch, one after another.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from launch.models.segment_memory import part_of_batch
from launch.run import gradient_guard
from topkast_tf import gradients as reduction


def train_step(model: keras.Model, parts: int, packed: bool) -> Callable[[Any], dict]:
    """A training step like `model.train_step`, as a function of a replica's data.

    The rows of the replica are split into P equal parts::

        g = 1/P sum_p grad loss(part p), then summed over the replicas, then clipped

    The sum over replicas is the gradient of the whole batch because Keras divides the
    loss of each replica by their number.

    Args:
      model: compiled; its optimizer is changed by `reduction.leave_reduced`.
      parts: P, which must divide the rows of a replica.
      packed: whether only the entries of the backward sets are exchanged.

    Returns:
      A function from a batch, as `fit` takes it, to the metrics so far.
    """
    reduction.leave_reduced(model.optimizer)

    def step(data):
        of = model.trainable_variables
        total, logs = None, {}
        for index in range(parts):
            # Sequentially, or all parts would need memory at the same time.
            with tf.control_dependencies(_present(total)), part_of_batch(index):
                gradients, logs = _gradients(model, _part(data, index, parts), of)
            total = gradients if total is None else _sums(total, gradients)
        if parts > 1:
            total = [None if g is None else g / parts for g in total]
        total = reduction.all_reduce_gradients(total, of, packed)
        model.optimizer.apply(total, of)
        return logs

    return step


def _gradients(model: keras.Model, data: Any, of: list) -> tuple[list, dict]:
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = model.compute_loss(x, y, outputs, weights, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradients = gradient_guard.marked(tape.gradient(scaled, of), loss)
    # The loss is divided by the number of replicas, the metric is a mean over them.
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    mean = loss * replicas if replicas > 1 else loss
    # The tracker of Keras, which the model may have replaced by its own.
    known = keras.Model.metrics.fget(model)
    tracker = next(metric for metric in known if metric.name == "loss")
    tracker.update_state(mean, sample_weight=tf.shape(tf.nest.flatten(x)[0])[0])
    return gradients, model.compute_metrics(x, y, outputs, weights)


def _part(data: Any, index: int, parts: int) -> Any:
    """The rows of one part."""
    if parts == 1:
        return data
    return tf.nest.map_structure(lambda x: tf.split(x, parts)[index], data)


def _present(gradients: list | None) -> list:
    return [g for g in gradients or () if g is not None]


def _sums(ours: list, theirs: list) -> list:
    return [
        None if a is None else tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
        for a, b in zip(ours, theirs, strict=True)
    ]
