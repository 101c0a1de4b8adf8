"""A soft mask of the largest scores, with a given sum. Pure functions of tensors."""

from collections.abc import Callable, Sequence

import tensorflow as tf

HALVINGS = 40
"""Of an interval of shifts: float32 has no shift between its ends by then."""


def soft_top_k(
    scores: Sequence[tf.Tensor], count: tf.Tensor, sharpness: tf.Tensor
) -> list[tf.Tensor]:
    """Masks in [0, 1] that grow with the scores and sum to `count` over all of them.

    ``m_i = sigmoid(beta v_i - c)`` with the c for which ``sum m_i = k``. It maximizes
    ``beta sum m_i v_i`` plus the entropy of m and of 1 - m under that sum, and is the fixed
    point of Sinkhorn's iteration for entropic transport of k of n entries. The sum falls
    with c, so c is found by bisection, between
    ``beta min v - logit(k / n)`` and ``beta max v - logit(k / n)``.

    Args:
      scores: v, floating tensors of any shapes.
      count: k, an integer scalar, from 1 to n; n gives ones.
      sharpness: beta, a floating scalar above 0.

    Returns:
      One float32 tensor for each of the scores, in its shape.

    >>> [mask] = soft_top_k([tf.constant([0.0, 1.0, 2.0])], tf.constant(1), 4.0)
    >>> [f"{m:.3f}" for m in mask.numpy()]
    ['0.002', '0.118', '0.880']

    Source: `SinkhornTopK` of the code of Tai et al., Spartan, 2022, with costs of 1.
    """
    scaled = [tf.cast(sharpness, tf.float32) * tf.cast(v, tf.float32) for v in scores]
    size = sum(v.shape.num_elements() for v in scaled)
    count = tf.cast(count, tf.float32)
    # Ones have an infinite shift; the interval is of no use then.
    k = tf.minimum(count, size - 0.5)
    logit = tf.math.log(k) - tf.math.log(size - k)
    low = tf.reduce_min(tf.stack([tf.reduce_min(v) for v in scaled])) - logit
    high = tf.reduce_max(tf.stack([tf.reduce_max(v) for v in scaled])) - logit

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = low + (high - low) / 2
        total = tf.add_n([tf.reduce_sum(tf.sigmoid(v - middle)) for v in scaled])
        return tf.where(total > k, middle, low), tf.where(total > k, high, middle)

    always = tf.constant(True)
    low, high = tf.while_loop(
        lambda *_: always, halve, (low, high), maximum_iterations=HALVINGS
    )
    shift = low + (high - low) / 2
    is_everything = count >= size
    return [
        tf.where(is_everything, tf.ones_like(v), tf.sigmoid(v - shift)) for v in scaled
    ]


@tf.custom_gradient
def softly_masked(
    theta: tf.Tensor, mask: tf.Tensor, inside: tf.Tensor, sharpness: tf.Tensor
) -> tuple[tf.Tensor, Callable]:
    """``theta m`` where inside, else 0; its gradient is that of ``theta m`` everywhere.

    With m a soft mask of ``|theta|`` and w = m (1 - m), for an upstream gradient g::

        d/dtheta_i = g_i m_i + beta sign(theta_i) w_i (g_i theta_i - c)
        c = sum_j w_j g_j theta_j / sum_j w_j

    The second term is that of m, whose sum is constant.

    Args:
      theta: floating tensor.
      mask: m, in its shape and dtype.
      inside: in its shape and dtype, ones and zeros.
      sharpness: beta, a scalar of its dtype; 0 if m does not depend on theta.

    >>> softly_masked(tf.constant([2.0, 3.0]), [0.5, 0.5], [1.0, 0.0], 1.0).numpy()
    array([1., 0.], dtype=float32)

    Source: `MaskedLinear` and the backward pass of `SinkhornTopK` of the same code.
    """
    theta, mask = tf.convert_to_tensor(theta), tf.convert_to_tensor(mask)

    def gradient(upstream: tf.Tensor) -> tuple:
        # A row lookup, or a product with a sparse tensor, gives `IndexedSlices`.
        upstream = tf.convert_to_tensor(upstream)
        slope, by_mask = mask * (1 - mask), upstream * theta
        total = tf.reduce_sum(slope * by_mask)
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(slope))
        through_mask = tf.sign(theta) * slope * (by_mask - mean)
        return upstream * mask + sharpness * through_mask, None, None, None

    return theta * mask * inside, gradient
