"""Set codes from masks given by the user. Pure: NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD


def codes_of(
    path: str, shape: Sequence[int], forward: Any, backward: Any = None
) -> np.ndarray:
    """The set codes of a weight from masks of A and B.

    Args:
      path: the weight's path, for errors.
      shape: the weight's shape.
      forward: A, booleans or zeros and ones.
      backward: B; None for B = A.

    Raises:
      ValueError: for invalid masks, or a B that lacks an entry of A.

    >>> codes_of("w", (3,), [0, 1, 0], [1, 1, 0])
    array([1, 2, 0], dtype=uint8)
    """
    a = _mask(path, shape, "forward", forward)
    b = a if backward is None else _mask(path, shape, "backward", backward)
    if np.any(a & ~b):
        raise ValueError(
            f"Expected a backward mask of {path} that contains the forward mask. Received: "
            f"one that lacks {int(np.sum(a & ~b))} of its entries"
        )
    return (a * (FORWARD - BACKWARD_ONLY) + b * BACKWARD_ONLY).astype(np.uint8)


def _mask(path: str, shape: Sequence[int], name: str, mask: Any) -> np.ndarray:
    array = np.asarray(mask)
    if array.shape != tuple(shape):
        raise ValueError(
            f"Expected a {name} mask of shape {tuple(shape)} for {path}. Received: one of "
            f"shape {array.shape}"
        )
    if array.dtype.kind not in "biuf" or not np.all((array == 0) | (array == 1)):
        raise ValueError(
            f"Expected a {name} mask of booleans, or zeros and ones, for {path}. "
            f"Received: an array of {array.dtype} with other values"
        )
    if not np.any(array):
        raise ValueError(
            f"Expected a {name} mask of {path} with at least one entry. Received: none"
        )
    return array.astype(bool)
