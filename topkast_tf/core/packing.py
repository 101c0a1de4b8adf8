"""Packed tensors: the entries of B alone, as a vector in the order of the weight."""

from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.sets import FORWARD, chosen, masked


def packed(x: tf.Tensor, sets: tf.Tensor, size: int) -> tf.Tensor:
    """The entries of a tensor that are in B, in order, and zeros behind them.

    Args:
      x: tensor in the shape of the weight.
      sets: uint8 set codes in its shape, with at most `size` entries in B.
      size: the length of the vector.

    Returns:
      A vector of x's dtype.

    >>> packed(tf.constant([5, 6, 7]), tf.constant([2, 0, 1], tf.uint8), 3).numpy()
    array([5, 7, 0], dtype=int32)
    """
    flat = tf.reshape(x, [-1])
    if not compat.is_compiled(tf.compat.v1.get_default_graph()):
        entries = tf.boolean_mask(flat, tf.reshape(sets, [-1]) > 0)[:size]
        entries = tf.pad(entries, [[0, size - tf.size(entries)]])
        return tf.ensure_shape(entries, [size])
    # Of a known shape throughout, as XLA needs it. What is outside B goes behind the end.
    places = _places(sets, size)[:, None]
    return tf.scatter_nd(places, flat, [size + 1])[:size]


def unpacked(entries: tf.Tensor, sets: tf.Tensor) -> tf.Tensor:
    """The inverse of `packed`, with zeros outside B.

    Args:
      entries: a vector.
      sets: uint8 set codes.

    >>> unpacked(tf.constant([5, 7, 0]), tf.constant([2, 0, 1], tf.uint8)).numpy()
    array([5, 0, 7], dtype=int32)
    """
    size = entries.shape[0]
    # A zero behind the end, which all entries outside B read.
    padded = tf.concat([entries, tf.zeros([1], entries.dtype)], 0)
    return tf.reshape(tf.gather(padded, _places(sets, size)), tf.shape(sets))


def _places(sets: tf.Tensor, size: int) -> tf.Tensor:
    """The place of each entry in the vector; `size` for those outside B."""
    inside = tf.reshape(sets, [-1]) > 0
    before = tf.cumsum(tf.cast(inside, tf.int32), exclusive=True)
    return chosen(inside, before, tf.fill(tf.shape(before), size))


@tf.custom_gradient
def packed_view(entries: tf.Tensor, sets: tf.Tensor) -> Any:
    """Alpha: the entries on A, zero elsewhere; its gradient is that on B, packed.

    `topkast_tf.variables.views.sparse_view` of the weight that the entries stand for.

    Args:
      entries: the entries of B.
      sets: uint8 set codes.

    >>> packed_view(tf.constant([5.0, 7.0]), tf.constant([2, 0, 1], tf.uint8)).numpy()
    array([5., 0., 0.], dtype=float32)
    """
    alpha = masked(unpacked(entries, sets), tf.equal(sets, FORWARD))
    size = entries.shape[0]
    return alpha, lambda upstream: (
        packed(tf.convert_to_tensor(upstream), sets, size),
        None,
    )


@tf.custom_gradient
def merged(theta: tf.Tensor, entries: tf.Tensor, sets: tf.Tensor) -> Any:
    """The whole weight: the entries on B, theta elsewhere. Differentiable in the entries.

    Args:
      theta: the weight as it was stored when the sets were selected.
      entries: the entries of B.
      sets: uint8 set codes.

    >>> merged(
    ...     tf.constant([1.0, 2.0, 3.0]), tf.constant([5.0, 7.0]),
    ...     tf.constant([2, 0, 1], tf.uint8),
    ... ).numpy()
    array([5., 2., 7.], dtype=float32)
    """
    inside, size = tf.cast(sets, tf.bool), entries.shape[0]
    whole = chosen(inside, unpacked(entries, sets), theta)

    def gradient(upstream: Any) -> tuple[tf.Tensor | None, ...]:
        upstream = tf.convert_to_tensor(upstream)
        return masked(upstream, ~inside), packed(upstream, sets, size), None

    return whole, gradient


def repacked(
    entries: tf.Tensor, before: tf.Tensor, after: tf.Tensor, entering: tf.Tensor | None
) -> tf.Tensor:
    """Entries that follow their weights from one B to the next.

    Args:
      entries: of the B before.
      before: set codes before.
      after: set codes after.
      entering: in the shape of the weight, the values of entries that enter B; None for
        zeros.

    >>> before, after = tf.constant([2, 1, 0], tf.uint8), tf.constant([0, 1, 2], tf.uint8)
    >>> repacked(tf.constant([5.0, 7.0]), before, after, None).numpy()
    array([7., 0.], dtype=float32)
    """
    whole = unpacked(entries, before)
    if entering is not None:
        whole = chosen(tf.cast(before, tf.bool), whole, entering)
    return packed(whole, after, entries.shape[0])
