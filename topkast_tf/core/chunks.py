"""Long vectors in parts, one after the other, to save working memory."""

from collections.abc import Callable

import tensorflow as tf

CHUNKED_SIZE = 2**21
"""Vectors up to this size are one part."""
_PARTS = 8  # into which longer vectors are cut


def map_in_chunks(
    function: Callable[..., list[tf.Tensor]], *vectors: tf.Tensor
) -> list[list[tf.Tensor]]:
    """Applies a function to eighths of vectors, one eighth after the other.

    Not at once: what would be in memory together would take the place of the large
    tensors that come next.

    Args:
      function: of a part of each vector, gives tensors.
      *vectors: of one length.

    Returns:
      What the function gives for each part.

    >>> [[total]] = map_in_chunks(lambda part: [tf.reduce_sum(part)], tf.ones(9))
    >>> float(total)
    9.0
    """
    found: list[list[tf.Tensor]] = []
    for bounds in _bounds(vectors[0]):
        with tf.control_dependencies(found[-1] if found else []):
            found.append(function(*(x[slice(*bounds)] for x in vectors)))
    return found


def _bounds(x: tf.Tensor) -> list[tuple]:
    """Where the parts of a vector begin and end; multiples of 8 but for the last end."""
    size = x.shape[0]
    if size is not None and size <= CHUNKED_SIZE:
        return [(0, size)]
    size = tf.size(x) if size is None else size
    length = (size // _PARTS + _PARTS) // 8 * 8
    ends = [i * length for i in range(1, _PARTS)]
    return list(zip([0, *ends], [*ends, size], strict=True))
