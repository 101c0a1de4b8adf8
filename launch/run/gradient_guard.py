"""Replaces non-finite gradients by zeros before they reach the weights, and counts them.

One such gradient makes a weight NaN, and the next step all weights; the origin could no
longer be found. With zeros in its place, the weights remain those that produced it.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

_COUNTER = "launch_unusable_gradients"


def guard(model: keras.Model) -> tf.Variable:
    """Guards the optimizer of a model; a second call changes nothing.

    With the gradients g of all weights::

        finite = isfinite(sum(g ** 2));  g = g if finite else 0

    A step with finite gradients is bitwise unchanged (except under XLA, which fuses the
    larger program differently and may round differently). In a bad step momentum still
    moves the weights. Under a strategy each replica checks its own gradients, before
    they are summed.

    Departs from `isfinite` of each entry for entries above about 1e19, whose square
    overflows float32: such a gradient counts as not finite. This needs only one pass.

    Args:
      model: compiled, with an optimizer that has `apply`. Its training step must not have
        been traced, because a traced step would not change.

    Returns:
      A scalar that counts the steps (of each replica) with a non-finite gradient.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1.0))
    >>> unusable = guard(model)
    >>> before = model.get_weights()
    >>> gradients = [tf.constant([[float("nan")]]), tf.constant([1.0])]
    >>> model.optimizer.apply(gradients, model.trainable_variables)
    >>> int(unusable), bool((model.get_weights()[1] == before[1]).all())
    (1, True)
    """
    optimizer = model.optimizer
    if _COUNTER in vars(optimizer):
        return vars(optimizer)[_COUNTER]
    with model.distribute_strategy.scope():
        counter = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
            name=_COUNTER,
        )
    apply = optimizer.apply

    def guarded(grads, trainable_variables=None):
        grads = list(grads)
        finite = all_finite(grads)
        counter.assign_add(tf.cast(tf.logical_not(finite), tf.int64))
        return apply(_or_zeros(finite, grads), trainable_variables)

    # Not through `__setattr__`, which would save the counter with the optimizer.
    vars(optimizer)["apply"] = guarded
    vars(optimizer)[_COUNTER] = counter
    return counter


def all_finite(gradients: Sequence[Any]) -> tf.Tensor:
    """Whether the sum of squares of all gradients is finite; None is skipped."""
    squares = [tf.nn.l2_loss(_values(g)) for g in gradients if g is not None]
    return tf.math.is_finite(tf.add_n([tf.cast(s, tf.float32) for s in squares]))


def marked(gradients: Sequence[Any], loss: tf.Tensor) -> list[Any]:
    """The gradients, with one of them set to NaN if the loss is not finite.

    The guard sees the sum of the gradients. So all replicas stop at the same step, even
    if the gradient of a non-finite loss is finite. The smallest gradient is used, because
    it costs the least.
    """
    dense = [
        i
        for i, g in enumerate(gradients)
        if g is not None and not isinstance(g, tf.IndexedSlices)
    ]
    found = list(gradients)
    if not dense:
        return found
    place = min(dense, key=lambda i: found[i].shape.num_elements() or math.inf)
    nan = tf.constant(float("nan"), found[place].dtype)
    found[place] = tf.where(tf.math.is_finite(loss), found[place], nan)
    return found


def _or_zeros(finite: tf.Tensor, gradients: Sequence[Any]) -> list[Any]:
    def chosen(gradient):
        if gradient is None:
            return None
        values = _values(gradient)
        kept = tf.where(finite, values, tf.zeros([], values.dtype))
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(kept, gradient.indices, gradient.dense_shape)
        return kept

    return [chosen(gradient) for gradient in gradients]


def _values(gradient: Any) -> tf.Tensor:
    is_slices = isinstance(gradient, tf.IndexedSlices)
    return gradient.values if is_slices else tf.convert_to_tensor(gradient)
