"""Memory of packed weights whose products the native kernels compute (docs/packed.md)."""

from launch.cost_model.parameters import CONVOLUTIONS, MATRICES, Parameter

# Of the plans (topkast_tf/kernels/src/matrix_plan.h): columns of a tile, outputs of a line.
_MULTIPLY_TILE, _ACCUMULATE_TILE, _LINE = 192, 64, 192 * 256


def is_native(parameter: Parameter) -> bool:
    """Whether a weight is packed and has native products, if its run has such kernels."""
    return parameter.is_sparse and parameter.kind in (MATRICES, CONVOLUTIONS)


def plan_bytes(parameter: Parameter) -> int:
    """Bytes of the plans of a packed weight, by compiled loops: with AVX-512 and theta in
    memory code is generated, which takes more.

    Of a matrix each entry of A takes 3 bytes in two products, and one of B 1 byte; a run,
    the entries of a row in a tile, takes 8 bytes and 12. Of a convolution they take 24
    bytes and 12.

    >>> plan_bytes(Parameter("a", MATRICES, 10000, 1000, 2000, True, matrix=(100, 100)))
    12800
    """
    forward, backward = parameter.forward, parameter.backward
    if parameter.matrix is None:
        return 24 * forward + 12 * backward
    inputs, outputs = parameter.matrix
    runs = _runs(outputs, inputs, _MULTIPLY_TILE, forward)
    runs += _runs(inputs, outputs, _MULTIPLY_TILE, forward)
    lines = 2 * inputs * -(-outputs // _LINE)
    of_a = 2 * 3 * forward + 8 * runs + 4 * lines
    return of_a + backward + 12 * _runs(inputs, outputs, _ACCUMULATE_TILE, backward)


def _runs(rows: int, cols: int, tile: int, entries: int) -> int:
    """Runs at most: those of the first tile all exist, of the others those with entries."""
    tiles = -(-cols // tile)
    return min(rows * tiles, rows + entries)
