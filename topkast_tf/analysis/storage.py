"""Bytes of sparse tensors: values, positions, and plans of kernels. Pure."""

from __future__ import annotations

FLOAT32 = 4

# Of the plans (topkast_tf/kernels/src/matrix_plan.h): columns of a tile, outputs of a line.
_MULTIPLY_TILE, _ACCUMULATE_TILE, _LINE = 192, 64, 192 * 256

POSITIONS = ("smaller", "bits", "indices")
"""How the positions of kept entries are stored."""


def positions(size: int, kept: int, form: str = "smaller") -> int:
    """Bytes of the positions of the kept entries of a tensor; 0 if all are kept.

    ``"bits"``: size / 8. ``"indices"``: 4 for each kept entry, 8 from 2^31 entries on.
    ``"smaller"``: whichever is less.

    >>> positions(1000, 10), positions(1000, 500), positions(1000, 1000)
    (40, 125, 0)
    >>> positions(1000, 500, "indices")
    2000
    """
    if kept == size:
        return 0
    bits = -(-size // 8)
    indices = kept * (FLOAT32 if size < 2**31 else 2 * FLOAT32)
    return {"smaller": min(bits, indices), "bits": bits, "indices": indices}[form]


def plan_bytes(
    forward: int,
    backward: int,
    matrix: tuple[int, int] | None = None,
    packed: bool = True,
) -> int:
    """Bytes of the plans of a weight with native products, by compiled loops.

    With AVX-512 and theta in memory code is generated instead, which takes more. Of a
    matrix each entry of A takes 1 byte in each of two products, 3 if the weight is packed,
    and one of B 1 byte; a run, the entries of a row in a tile, takes 8 bytes, and 12 in B
    of a packed weight. Of a convolution entries of A and B take 24 bytes and 12.

    Args:
      forward: entries in A.
      backward: entries in B.
      matrix: inputs and outputs; None of a convolution with a window.
      packed: whether the values are the vector of the entries of B.

    >>> plan_bytes(1000, 2000, (100, 100))
    12800
    >>> plan_bytes(1000, 2000, (100, 100), packed=False)
    7200
    """
    if matrix is None:
        return 24 * forward + 12 * backward
    inputs, outputs = matrix
    runs = _runs(outputs, inputs, _MULTIPLY_TILE, forward)
    runs += _runs(inputs, outputs, _MULTIPLY_TILE, forward)
    of_b = _runs(inputs, outputs, _ACCUMULATE_TILE, backward)
    if not packed:
        return 2 * forward + 8 * runs + backward + 8 * of_b
    lines = 2 * inputs * -(-outputs // _LINE)
    return 2 * 3 * forward + 8 * runs + 4 * lines + backward + 12 * of_b


def _runs(rows: int, cols: int, tile: int, entries: int) -> int:
    """Runs at most: those of the first tile all exist, of the others those with entries."""
    tiles = -(-cols // tile)
    return min(rows * tiles, rows + entries)
