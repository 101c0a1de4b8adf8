"""SWAT-M: weights move to the layers with larger momentum. Pure."""

from collections.abc import Sequence

import tensorflow as tf

_ALMOST_DENSE = 0.99
_PASSES = 1000


def shares(momenta: Sequence[tf.Tensor], active: Sequence[tf.Tensor]) -> tf.Tensor:
    """Each layer's share of the mean momentum of its active weights.

    ``m_l = mean over A_l of |momentum|``, then ``m_l / sum_l m_l``.

    Args:
      momenta: the momentum of each layer, in its weight's shape.
      active: the forward mask A of each layer.

    Returns:
      float64 ``[layers]`` with sum 1; equal shares while there is no momentum yet.

    >>> m, a = tf.constant([3.0, -1.0, 8.0]), tf.constant([True, True, False])
    >>> shares([m, 3.0 * m], [a, a]).numpy()
    array([0.25, 0.75])
    """
    means = []
    for momentum, mask in zip(momenta, active, strict=True):
        kept = tf.reduce_sum(tf.cast(mask, tf.float32))
        magnitudes = tf.where(mask, tf.abs(tf.cast(momentum, tf.float32)), 0.0)
        means.append(tf.reduce_sum(magnitudes) / tf.maximum(kept, 1.0))
    stacked = tf.cast(tf.stack(means), tf.float64)
    total = tf.reduce_sum(stacked)
    equal = tf.ones_like(stacked) / tf.cast(tf.size(stacked), tf.float64)
    return tf.where(total > 0, stacked / tf.where(total > 0, total, 1.0), equal)


def allot(share: tf.Tensor, sizes: Sequence[int], budget: tf.Tensor) -> tf.Tensor:
    """The number of weights that each layer keeps of a shared budget.

    ``k_l = ceil(share_l * budget)``. A layer with more than 0.99 of its size n_l becomes
    dense, and ``k_l - n_l`` goes to the residual r. While ``r > L``, the number of
    layers, each layer is given ``ceil(r / L)`` more; dense layers return theirs to r.
    This ends as soon as more than the budget is kept.

    Args:
      share: float64 ``[layers]``, with sum 1.
      sizes: the number of weights of each layer.
      budget: integer scalar, the total number of kept weights.

    Returns:
      int64 ``[layers]``, each between 1 and the layer's size. The sum may be up to L
      below the budget. It exceeds it by at most L per pass, from rounding (by less than
      3 L in 20,000 random cases), and by one hundredth of the layers that become dense.

    >>> allot(tf.constant([0.9, 0.1], tf.float64), [10, 100], tf.constant(20)).numpy()
    array([10,  8])

    Source: SWAT-M of the authors' code, an adaptation of SNFS (Dettmers & Zettlemoyer
    2019). Departs from it in keeping at least one weight of each layer.
    """
    limits = tf.constant(list(sizes), tf.int64)
    layers = tf.constant(len(sizes), tf.int64)
    budget = tf.cast(budget, tf.int64)
    first = tf.cast(tf.math.ceil(share * tf.cast(budget, tf.float64)), tf.int64)

    def settle(count):
        full = tf.cast(count, tf.float64) > _ALMOST_DENSE * tf.cast(limits, tf.float64)
        # Negative if a layer is rounded up to its size.
        rest = tf.reduce_sum(tf.where(full, count - limits, 0))
        return tf.where(full, limits, count), rest

    def deal(passes, count, rest):
        return passes + 1, *settle(count + (rest + layers - 1) // layers)

    def unsettled(passes, count, rest):
        total = tf.reduce_sum(count)
        within = (total <= budget) & (total < sum(sizes))
        return (rest > layers) & within & (passes < _PASSES)

    _, count, _ = tf.while_loop(
        unsettled, deal, (tf.constant(1), *settle(first)), parallel_iterations=1
    )
    return tf.clip_by_value(count, 1, limits)
