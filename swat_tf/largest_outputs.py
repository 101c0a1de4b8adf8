"""The largest outputs of each example, by value and not by magnitude. Pure."""

from typing import Any

import tensorflow as tf

from swat_tf.topk import kept_of, kth_of_rows

THRESHOLDS = ("first", "each")
"""Whose k-th largest output is the threshold: the first example's, or each one's own."""

_LARGEST = 2**31 - 1


def largest_outputs(scores: tf.Tensor, sparsity: float, threshold: str) -> tf.Tensor:
    """Mask of the ``kept(n, s)`` largest of the n outputs of each example.

    Args:
      scores: floating tensor, ``[batch, ...]``. NaN ranks highest, to be noticed.
      sparsity: s, the fraction of outputs that are dropped, in [0, 1).
      threshold: ``"each"``: exactly as many of each example, ties broken by the lower
        index; or ``"first"``: those that reach the k-th largest of the first example,
        so that the number of others differs. If ``kept(n, s)`` is n, all are kept.

    Returns:
      Boolean tensor like scores.

    >>> scores = tf.constant([[3.0, -4.0, 1.0, 2.0], [9.0, 8.0, 7.0, 0.0]])
    >>> largest_outputs(scores, 0.5, "each").numpy().astype(int).tolist()
    [[1, 0, 0, 1], [1, 1, 0, 0]]
    >>> largest_outputs(scores, 0.5, "first").numpy().astype(int).tolist()
    [[1, 0, 0, 1], [1, 1, 1, 0]]
    """
    rows = tf.reshape(_keys(scores), [tf.shape(scores)[0], -1])
    size = scores.shape[1:].num_elements()
    size = tf.shape(rows)[1] if size is None else size
    k = tf.cast(kept_of(size, sparsity), tf.int32)
    if threshold == "first":
        least = kth_of_rows(rows[:1], k)[:, None]
        # A threshold would drop outputs of other examples, of which all are to be kept.
        mask = (rows >= least) | (k >= size)
    else:
        least = kth_of_rows(rows, k)[:, None]
        above, tie = rows > least, tf.equal(rows, least)
        needed = k - tf.reduce_sum(tf.cast(above, tf.int32), axis=1)
        rank = tf.cumsum(tf.cast(tie, tf.int32), axis=1)
        mask = above | (tie & (rank <= needed[:, None]))
    return tf.reshape(mask, tf.shape(scores))


def _keys(scores: tf.Tensor) -> tf.Tensor:
    """int32 keys in the order of the values."""
    scores = tf.cast(scores, tf.float32)
    bits = tf.bitcast(scores, tf.int32)
    # The bits of negative numbers grow with the magnitude; and -0 equals 0.
    keys = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, _LARGEST), bits)
    keys = tf.where(tf.equal(scores, 0.0), 0, keys)
    return tf.where(tf.math.is_nan(scores), _LARGEST, keys)


def validate_threshold(threshold: Any) -> None:
    """Raises a ValueError unless this names a threshold.

    >>> validate_threshold("first")
    """
    if threshold not in THRESHOLDS:
        raise ValueError(
            f"`threshold` must be one of {list(THRESHOLDS)}. "
            f"Received: threshold={threshold!r}"
        )
