"""The largest entries of activations and error gradients, by magnitude. Pure.

Selection over a whole tensor is `topkast_tf.core.selection`: exact, ties broken by the
lower index. This module adapts it to a sparsity and a batch: sizes known only at run time,
one selection per example, and thresholds used for several steps.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import tensorflow as tf

from topkast_tf.core import kth_largest, selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.core.sparsities import kept
from topkast_tf.core.trace_once import trace_once

PER = ("batch", "sample")
"""The extent of a selection: the whole tensor, or each example (first axis) by itself."""

_KEY_BITS = 31
_SMALLEST_KEY = 0x00800000  # of a normal float32: smaller numbers compare as zeros
_LARGEST_FACTOR = 2**31


def kept_of(size: Any, sparsity: float) -> Any:
    """The number of kept entries at a sparsity, also for a size known only at run time.

    ``kept(n, s) = max(1, n - floor(s n))``, with s read as the decimal it prints as; 0 of
    0 entries.

    Args:
      size: a Python integer, or an integer scalar tensor below 2^31.
      sparsity: fraction of zeros, in [0, 1).

    Returns:
      An integer, or an int32 scalar.

    >>> [int(kept_of(size, 0.57)) for size in (100, tf.constant(100), tf.constant(0))]
    [43, 43, 0]
    """
    if isinstance(size, int):
        return kept(size, sparsity) if size else 0
    decimal = _largest_fraction_up_to(Fraction(str(sparsity)))
    size = tf.cast(size, tf.int64)
    zeros = size * decimal.numerator // decimal.denominator
    # 0 of no entries, as for a batch that is empty.
    return tf.cast(tf.maximum(size - zeros, tf.minimum(size, 1)), tf.int32)


def _largest_fraction_up_to(exact: Fraction) -> Fraction:
    """The largest fraction of 31-bit integers that is not above an exact one.

    No fraction with a denominator of 31 bits lies between the two, so the floor of their
    product with any size of 31 bits is the same; and that product fits into 63 bits.
    """
    limit = _LARGEST_FACTOR - 1
    near = exact.limit_denominator(limit)
    if near <= exact:
        return near
    # The neighbour below `near` among these fractions, p / q: a / b with p b - q a = 1.
    p, q = near.numerator, near.denominator
    inverse = pow(p, -1, q) if q > 1 else 0
    b = inverse + (limit - inverse) // q * q
    return Fraction((p * b - 1) // q, b)


def size_of(x: tf.Tensor) -> Any:
    """Number of entries: a Python integer if it is known, else an int32 scalar."""
    static = x.shape.num_elements()
    return tf.size(x) if static is None else static


def largest(x: tf.Tensor, k: Any, spare_memory: bool = False) -> tf.Tensor:
    """Mask of the k entries of largest magnitude of the whole tensor, excluding zeros.

    Args:
      x: floating tensor of any shape.
      k: integer, 1 <= k <= size of x.
      spare_memory: as for `topkast_tf.core.kth_largest.thresholds`.

    Returns:
      Boolean tensor like x: exactly k entries True, or all nonzero ones if those are
      fewer.

    >>> largest(tf.constant([[1.0, -3.0], [2.0, 2.0]]), 2).numpy().tolist()
    [[False, True], [True, False]]
    """
    if spare_memory:
        return tf.reshape(_largest_of_vector(tf.reshape(x, [-1]), k), tf.shape(x))
    found = _kth(x, k)
    return _without_excess_ties(x, found, _ties_by_rank)


@trace_once
def _largest_of_vector(x: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    return _without_excess_ties(x, _kth(x, k, spare_memory=True), _ties_by_place)


def _without_excess_ties(
    x: tf.Tensor, found: kth_largest.Threshold, mask_with_ties: Callable
) -> tf.Tensor:
    # Without ties to break, no keys are needed, which take as much memory as the
    # tensor.
    return tf.cond(
        tf.equal(found.needed, found.tied) | (found.key < _SMALLEST_KEY),
        lambda: at_or_above(x, found.key),
        lambda: mask_with_ties(x, found),
    )


def _ties_by_rank(x: tf.Tensor, found: kth_largest.Threshold) -> tf.Tensor:
    [mask] = selection.at_or_above([magnitude_keys(x)], found)
    return tf.reshape(mask, tf.shape(x))


def _ties_by_place(x: tf.Tensor, found: kth_largest.Threshold) -> tf.Tensor:
    """The same, with memory only for the ties; not for XLA, which needs static sizes."""
    at = tf.bitcast(found.key, tf.float32)
    flat = tf.reshape(tf.cast(x, tf.float32), [-1])
    places = tf.where(tf.equal(flat, at) | tf.equal(flat, -at))
    too_many = places[found.needed :]
    out = tf.zeros(tf.shape(too_many)[:1], tf.bool)
    mask = tf.reshape(at_or_above(x, found.key), [-1])
    return tf.reshape(tf.tensor_scatter_nd_update(mask, too_many, out), tf.shape(x))


def _kth(x: tf.Tensor, k: Any, spare_memory: bool = False) -> kth_largest.Threshold:
    bits = tf.bitcast(tf.reshape(tf.cast(x, tf.float32), [-1]), tf.int32)
    return kth_largest.thresholds([bits], [tf.cast(k, tf.int32)], spare_memory)[0]


def threshold(x: tf.Tensor, k: Any, spare_memory: bool = False) -> tf.Tensor:
    """The magnitude key of the k-th largest entry, an int64 scalar.

    Args:
      x: floating tensor of any shape.
      k: integer, 1 <= k <= size of x.
      spare_memory: as for `topkast_tf.core.kth_largest.thresholds`.
    """
    return tf.cast(_kth(x, k, spare_memory).key, tf.int64)


def at_or_above(x: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Mask of the entries whose magnitude reaches a threshold, excluding zeros.

    Their number may differ from that kept when the threshold was computed. A threshold
    of 0 (more zeros than were to be dropped) keeps every nonzero entry.

    Args:
      x: floating tensor of any shape.
      key: integer scalar, as returned by `threshold`.

    >>> at_or_above(tf.constant([0.0, -3.0, 2.0]), threshold(tf.constant([0.0, 1.0]), 2))
    <tf.Tensor: shape=(3,), dtype=bool, numpy=array([False,  True,  True])>
    """
    x = tf.cast(x, tf.float32)
    least = tf.bitcast(tf.maximum(tf.cast(key, tf.int32), _SMALLEST_KEY), tf.float32)
    # Not |x|, which is one more tensor of that size. NaN is kept, to be noticed.
    return ~((x < least) & (x > -least))


def largest_per_sample(x: tf.Tensor, sparsity: float) -> tf.Tensor:
    """Mask of the largest entries of each example separately.

    Each example keeps ``kept(m, s)`` of its m entries, ties broken by the lower index.

    Args:
      x: floating tensor, ``[batch, ...]``.
      sparsity: fraction of zeros, in [0, 1).

    Returns:
      Boolean tensor like x.

    >>> largest_per_sample(tf.constant([[1.0, -3.0], [2.0, 2.0]]), 0.5).numpy().tolist()
    [[False, True], [True, False]]
    """
    keys = tf.bitcast(tf.abs(tf.cast(x, tf.float32)), tf.int32)
    rows = tf.reshape(keys, [tf.shape(x)[0], -1])
    length = x.shape[1:].num_elements()
    k = kept_of(tf.shape(rows)[1] if length is None else length, sparsity)
    k = tf.cast(k, tf.int32)
    found = kth_of_rows(rows, k)
    above, tie = rows > found[:, None], tf.equal(rows, found[:, None])
    needed = k - _counts(above)
    rank = tf.cumsum(tf.cast(tie, tf.int32), axis=1)
    return tf.reshape(above | (tie & (rank <= needed[:, None])), tf.shape(x))


def kth_of_rows(keys: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """The k-th largest key of each row.

    Args:
      keys: int32, ``[rows, n]``.
      k: int32 scalar, 1 <= k <= n.

    Returns:
      int32, ``[rows]``.

    >>> kth_of_rows(tf.constant([[3, -1, 2], [-5, -7, -6]]), tf.constant(2)).numpy()
    array([ 2, -6], dtype=int32)
    """

    def next_bit(bit, found):
        candidate = found + tf.bitwise.left_shift(tf.constant(1), bit)
        enough = _counts(keys >= candidate[:, None]) >= k
        return bit - 1, tf.where(enough, candidate, found)

    # Bit by bit from the highest, the sign: the largest key that at least k of the row
    # reach.
    lowest = tf.where(_counts(keys >= 0) >= k, 0, -(2**_KEY_BITS))
    _, found = tf.while_loop(
        lambda bit, _: bit >= 0,
        next_bit,
        (tf.constant(_KEY_BITS - 1), lowest),
        parallel_iterations=1,
    )
    return found


def _counts(mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)


def mask_of(x: tf.Tensor, sparsity: float, per: str = "batch") -> tf.Tensor:
    """Mask of the entries of largest magnitude at a sparsity.

    Args:
      x: floating tensor.
      sparsity: fraction of zeros, in [0, 1).
      per: ``"batch"`` (the whole tensor) or ``"sample"`` (each example separately).

    >>> mask_of(tf.constant([3.0, -1.0, 2.0, 0.5]), 0.5).numpy().tolist()
    [True, False, True, False]
    """
    if per == "sample":
        return largest_per_sample(x, sparsity)
    return largest(x, kept_of(size_of(x), sparsity))


def apply_mask(mask: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The tensor where the mask is True, zero elsewhere."""
    # `where`, not a product, so that a dropped NaN or infinity becomes zero.
    return tf.where(mask, x, tf.zeros([], x.dtype))


def validate_per(name: str, per: object) -> None:
    """Raises a ValueError unless this is the extent of a selection.

    >>> validate_per("errors_per", "sample")
    """
    if per not in PER:
        raise ValueError(
            f"`{name}` must be one of {list(PER)}. Received: {name}={per!r}"
        )
