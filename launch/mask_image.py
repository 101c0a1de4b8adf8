"""A picture of the sets of a weight. Pure."""

import numpy as np

from topkast_tf.selection import FORWARD, RESERVOIR

SIDE = 256
_OUTSIDE, _BACKWARD, _FORWARD = (236, 236, 236), (255, 176, 0), (0, 90, 181)


def mask_image(codes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The sets of a weight as colours.

    The weight is seen as inputs x outputs, all but its last axis in the rows. Blue is A,
    amber what is in B only, grey the rest. Where it is larger than the picture, a pixel
    is the mean colour of the entries it stands for, each of them in one pixel.

    Args:
      codes: as `SparseWeight.codes` gives them: 0 outside, 1 in B only, 2 in A; any shape.
      side: rows and columns at most.

    Returns:
      uint8 [rows, columns, 3].

    >>> mask_image(np.array([[2, 0], [1, 2]]))[0].tolist()
    [[0, 90, 181], [236, 236, 236]]
    """
    codes = np.asarray(codes)
    codes = codes.reshape(-1, codes.shape[-1]) if codes.ndim else codes.reshape(1, 1)
    rows, columns = (_edges(length, side) for length in codes.shape)
    sizes = np.outer(
        np.diff(rows, append=codes.shape[0]), np.diff(columns, append=codes.shape[1])
    )
    picture = np.zeros((*sizes.shape, 3))
    backward = (codes != RESERVOIR) & (codes != FORWARD)
    for members, colour in (
        (codes == FORWARD, _FORWARD),
        (backward, _BACKWARD),
        (codes == RESERVOIR, _OUTSIDE),
    ):
        share = _sums(_sums(members, rows, 0), columns, 1) / sizes
        picture += share[..., None] * np.array(colour)
    return np.rint(picture).astype("uint8")


def _edges(length: int, side: int) -> np.ndarray:
    """Where each of at most `side` pixels begins."""
    pixels = min(length, side)
    return np.arange(pixels) * length // pixels


def _sums(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    return np.add.reduceat(values, edges, axis=axis, dtype=np.int64)
