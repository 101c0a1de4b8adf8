"""The products of weights that are no longer trained, of their entries and the gaps."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from topkast_tf.kernels.convolutions import output_sizes
from topkast_tf.kernels.library import library

SKIPPED = 255
"""The places that a gap of 0 stands for, none of which has an entry."""


def gaps_of(kept: np.ndarray) -> np.ndarray:
    """The places of entries as gaps: the distance of each from the one before.

    The first is that from a place in front of the weight. A distance above 255 is led by
    zeros, each of which stands for 255 places.

    Args:
      kept: a boolean array, true where there is an entry.

    Returns:
      A vector of uint8, about a byte for each entry.

    >>> gaps_of(np.array([[True, False], [False, True]]))
    array([1, 3], dtype=uint8)
    """
    distances = np.diff(np.flatnonzero(kept), prepend=-1)
    zeros = (distances - 1) // SKIPPED
    gaps = np.zeros(distances.size + zeros.sum(), np.uint8)
    gaps[np.cumsum(zeros + 1) - 1] = distances - SKIPPED * zeros
    return gaps


def whole(entries: tf.Tensor, gaps: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """The weight: the entries at their places, zeros elsewhere. Shapes are static.

    Args:
      entries: in the order of the weight.
      gaps: as from `gaps_of`.
      shape: that of the weight.

    >>> whole(tf.constant([5.0, 7.0]), tf.constant([1, 3], tf.uint8), (2, 2)).numpy()
    array([[5., 0.],
           [0., 7.]], dtype=float32)
    """
    exists = gaps > 0
    steps = tf.where(exists, tf.cast(gaps, tf.int32), SKIPPED)
    places = tf.cumsum(steps) - 1
    # A place that is skipped to has no entry, and gets a zero.
    number = tf.maximum(tf.cumsum(tf.cast(exists, tf.int32)) - 1, 0)
    padded = tf.concat([entries, tf.zeros([1], entries.dtype)], 0)
    values = tf.where(exists, tf.gather(padded, number), tf.zeros([], entries.dtype))
    flat = tf.scatter_nd(places[:, None], values, [math.prod(shape)])
    return tf.reshape(flat, shape)


def served_matmul(
    x: tf.Tensor,
    entries: tf.Tensor,
    gaps: tf.Tensor,
    shape: tuple[int, int],
    *,
    key: int,
    cpu: str | None = None,
) -> tf.Tensor:
    """The product ``y = x alpha`` of a weight that is no longer trained.

    As `sparse_matmul`, with the same bits. Plans and ordered values are kept from call to
    call, and up to four positions have a kernel of their own (AVX-512). It has a gradient
    of x, and none of the entries.

    Args:
      x: float32 or bfloat16, positions x inputs.
      entries: float32, the entries of alpha in the order of the weight.
      gaps: their places, as from `gaps_of`.
      shape: (inputs, outputs).
      key: the weight's own; plans are kept under it. Processes may share it.
      cpu: the instruction set; None for the fastest of the machine that computes, or the
        one that TOPKAST_CPU names there.

    Returns:
      Of x's dtype, positions x outputs.

    Raises:
      Unavailable: without native kernels.
      tf.errors.InvalidArgumentError: for other shapes, or gaps that lead beyond the weight.

    >>> served_matmul(tf.constant([[1.0, 10.0]]), tf.constant([5.0, 7.0]),
    ...               tf.constant([1, 3], tf.uint8), (2, 2), key=-1).numpy()
    array([[ 5., 70.]], dtype=float32)
    """
    native = library()
    return native.ops.topkast_sparse_mat_mul(
        x,
        entries,
        gaps,
        [],
        key=key,
        cpu=cpu or "",
        entries=entries.shape[0],
        shape=list(shape),
    )


def served_conv(
    x: tf.Tensor,
    entries: tf.Tensor,
    gaps: tf.Tensor,
    shape: Sequence[int],
    *,
    key: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str,
    groups: int = 1,
    cpu: str | None = None,
) -> tf.Tensor:
    """The convolution with a weight that is no longer trained, as `sparse_conv`.

    Args:
      x: sequences or images, channels last.
      entries: as of `served_matmul`.
      gaps: as of `served_matmul`.
      shape: of the weight, whose leading axes are its window.
      key: as of `served_matmul`.
      strides: of each axis of the window.
      dilations: of each axis of the window.
      padding: ``"valid"``, ``"same"`` or ``"causal"``.
      groups: into which the channels are divided.
      cpu: as of `served_matmul`.
    """
    outputs = output_sizes(x.shape[1:-1], shape[:-2], strides, dilations, padding)
    found = [x.shape[0], *outputs, shape[-1]]
    is_sequence = len(shape) == 3  # one row
    if is_sequence:
        x, shape = x[:, None], (1, *shape)
        strides, dilations = [1, *strides], [1, *dilations]
    native = library()
    y = native.ops.topkast_sparse_conv(
        x,
        entries,
        gaps,
        [],
        key=key,
        cpu=cpu or "",
        strides=list(strides),
        dilations=list(dilations),
        padding=padding.upper(),
        groups=groups,
        entries=entries.shape[0],
        shape=list(shape),
    )
    y = y[:, 0] if is_sequence else y
    y.set_shape(found)
    return y
