"""A dense systolic array, by a closed form."""

from __future__ import annotations

import dataclasses
import math

from swat_tf.simulator.checks import check_choice, check_rates, check_sizes
from swat_tf.simulator.memory import Memory, check_memory

STATIONARY = ("output", "weight", "input")


@dataclasses.dataclass(frozen=True)
class SystolicArray:
    """A dense array of rows x columns multipliers that pass operands to neighbours.

    It skips no zeros. It is here as the dense machine that others are compared with.

    Args:
      rows: R, at least 1.
      columns: C, at least 1.
      stationary: the operand that stays in place: ``"output"``, ``"weight"``, ``"input"``.
      clock: cycles per second.
      value_bits: bits of a value in memory.
      memory: buffers and bandwidth.

    Raises:
      ValueError: for a parameter out of range.
    """

    rows: int
    columns: int
    stationary: str
    clock: float
    value_bits: int
    memory: Memory

    def __post_init__(self) -> None:
        check_sizes(rows=self.rows, columns=self.columns, value_bits=self.value_bits)
        check_choice("stationary", self.stationary, STATIONARY)
        check_rates(clock=self.clock)
        check_memory(self.memory)

    @property
    def multipliers(self) -> int:
        """Products in a cycle, at most."""
        return self.rows * self.columns


def systolic_cycles(array: SystolicArray, pixels: int, filters: int, depth: int) -> int:
    """Cycles of a product of matrices (pixels x depth) (depth x filters).

    ``ceil(S_r / R) ceil(S_c / C) (T + R + C - 2 [+ R unless outputs are stationary]) - 1``

    with (S_r, S_c, T) = (pixels, filters, depth) if outputs are stationary, (depth,
    filters, pixels) if weights are, and (depth, pixels, filters) if inputs are.

    Args:
      array: the array.
      pixels: rows of the result, M.
      filters: columns of the result.
      depth: products in each sum, K. Of a convolution whose kernel has empty rows, those
        that are left.

    >>> from swat_tf.simulator import preset
    >>> systolic_cycles(preset("systolic_output"), 256, 128, 256)
    10175

    Source: SCALE-Sim v3, whose reports (total less stalled cycles) it reproduces. Departs
    from it in that stalls are not simulated: memory cycles are counted by `traffic`.
    """
    check_sizes(pixels=pixels, filters=filters, depth=depth)
    spread = {
        "output": (pixels, filters, depth),
        "weight": (depth, filters, pixels),
        "input": (depth, pixels, filters),
    }
    over_rows, over_columns, time = spread[array.stationary]
    folds = math.ceil(over_rows / array.rows) * math.ceil(over_columns / array.columns)
    fill = array.rows if array.stationary != "output" else 0
    return folds * (time + array.rows + array.columns - 2 + fill) - 1
