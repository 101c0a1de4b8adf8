"""A picture of the sets of a weight, and its legend. Pure functions."""

import io

import numpy as np

from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD

SIDE = 256
_OUTSIDE, _BACKWARD, _FORWARD = (236, 236, 236), (255, 176, 0), (0, 90, 181)
LEGEND = (
    "Rows are inputs, columns are outputs. Blue: A, the forward set. Amber: B \\ A, "
    "updated but zero in the forward pass. Grey: C, the reservoir, neither used nor "
    "updated. In weights above 256 x 256, a pixel is the mean colour of its entries."
)
"""The meaning of the colours, in Markdown."""
COLOURS = (_FORWARD, _BACKWARD, _OUTSIDE)
"""Of A, B \\ A and C: red, green and blue, up to 255."""
_WHITE, _INK = 255, 70
_LINE, _SWATCH, _GAP, _DOT = 22, 14, 4, 2
# Letters of 5 x 7 dots, one number per row.
_LETTERS = {
    "A": (0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001),
    "B": (0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110),
    "C": (0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110),
    "\\": (0b10000, 0b10000, 0b01000, 0b00100, 0b00010, 0b00001, 0b00001),
}


def mask_image(codes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The sets of a weight as colours.

    The weight is viewed as a matrix of inputs x outputs, whose columns are its last axis.
    Blue is A, amber is in B only, grey is the rest. If the weight is larger than the
    picture, a pixel is the mean colour of its entries; each entry is in one pixel.

    Args:
      codes: from `SparseWeight.codes`: 0 outside, 1 in B only, 2 in A; any shape.
      side: maximum number of rows and columns.

    Returns:
      uint8 [rows, columns, 3].

    >>> mask_image(np.array([[2, 0], [1, 2]]))[0].tolist()
    [[0, 90, 181], [236, 236, 236]]
    """
    forward, backward = _shares(codes, side)
    outside = 1 - forward - backward
    picture = sum(
        share[..., None] * np.array(colour)
        for share, colour in zip((forward, backward, outside), COLOURS, strict=True)
    )
    return np.rint(picture).astype("uint8")


def clear_image(codes: np.ndarray, side: int = SIDE) -> np.ndarray:
    """As `mask_image`, but transparent where that is grey, for white and black pages.

    Args:
      codes: as there.
      side: as there.

    Returns:
      uint8 [rows, columns, 4]: red, green, blue and opacity.

    >>> clear_image(np.array([[2, 0]]))[0].tolist()
    [[0, 90, 181, 255], [0, 0, 0, 0]]
    """
    forward, backward = _shares(codes, side)
    opacity = forward + backward
    colour = forward[..., None] * np.array(_FORWARD) + backward[..., None] * np.array(
        _BACKWARD
    )
    colour /= np.maximum(opacity, 1e-9)[..., None]
    return np.rint(np.dstack([colour, 255 * opacity])).astype("uint8")


def _shares(codes: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The shares of A and of B \\ A among the entries of each pixel."""
    codes = np.asarray(codes)
    codes = codes.reshape(-1, codes.shape[-1]) if codes.ndim else codes.reshape(1, 1)
    rows, columns = (_edges(length, side) for length in codes.shape)
    sizes = np.outer(
        np.diff(rows, append=codes.shape[0]), np.diff(columns, append=codes.shape[1])
    )
    forward, backward = (
        _sums(_sums(members, rows, 0), columns, 1) / sizes
        for members in (codes == FORWARD, codes == BACKWARD_ONLY)
    )
    return forward, backward


def with_legend(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A picture of sets above a line that names the set of each colour.

    A small picture is enlarged by an integer factor, so that its entries are visible.

    Args:
      picture: from `mask_image`.
      side: maximum number of rows and columns after enlarging.

    Returns:
      uint8 [rows, columns, 3].

    >>> with_legend(mask_image(np.array([[2, 0], [1, 2]]))).shape
    (278, 256, 3)
    """
    picture = enlarged(picture, side)
    line = _legend()
    columns = max(picture.shape[1], line.shape[1])
    return np.concatenate([_widened(part, columns) for part in (picture, line)])


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A small picture enlarged by an integer factor, so that its entries are visible.

    Args:
      picture: uint8 [rows, columns, 3].
      side: maximum number of rows and columns after enlarging.
    """
    times = max(1, side // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def png(picture: np.ndarray) -> bytes:
    """A picture as a PNG file.

    >>> png(mask_image(np.array([[2, 0], [1, 2]])))[:4]
    b'\\x89PNG'
    """
    from matplotlib.image import imsave

    out = io.BytesIO()
    imsave(out, picture, format="png")
    return out.getvalue()


def _widened(picture: np.ndarray, columns: int) -> np.ndarray:
    missing = columns - picture.shape[1]
    return np.pad(picture, [(0, 0), (0, missing), (0, 0)], constant_values=_WHITE)


def _legend() -> np.ndarray:
    parts = []
    for colour, name in ((_FORWARD, "A"), (_BACKWARD, "B\\A"), (_OUTSIDE, "C")):
        swatch = np.full((_LINE, _SWATCH + 2 * _GAP, 3), _WHITE, np.uint8)
        swatch[_GAP:-_GAP, _GAP:-_GAP] = colour
        parts += [swatch, *map(_letter, name)]
    return np.concatenate(parts, axis=1)


def _letter(name: str) -> np.ndarray:
    dots = np.array(
        [[row >> bit & 1 for bit in range(4, -1, -1)] for row in _LETTERS[name]]
    )
    drawn = np.where(dots, _INK, _WHITE).astype("uint8")
    drawn = drawn.repeat(_DOT, axis=0).repeat(_DOT, axis=1)
    above = (_LINE - drawn.shape[0]) // 2
    below = _LINE - drawn.shape[0] - above
    drawn = np.pad(drawn, [(above, below), (0, _DOT)], constant_values=_WHITE)
    return drawn[..., None].repeat(3, axis=2)


def _edges(length: int, side: int) -> np.ndarray:
    """The first index of each of at most `side` pixels."""
    pixels = min(length, side)
    return np.arange(pixels) * length // pixels


def _sums(values: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    return np.add.reduceat(values, edges, axis=axis, dtype=np.int64)
