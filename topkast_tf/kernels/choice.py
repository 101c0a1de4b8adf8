"""Whether the native kernels pay for a product: a cost model, never a timing in the run.

The same machine decides the same each time, so that a run resumes bitwise.
"""

from typing import NamedTuple

KERNELS = ("auto", "masked", "native")
"""What a scope may ask for: what pays, the masked product, or the native kernels."""


class Costs(NamedTuple):
    """The cost of kernels, measured relative to TensorFlow's dense product.

    The unit is the time of one multiply-add of a large dense float32 product on the same
    machine.

    Attributes:
      product: of an entry and a position, in forward pass and input gradient.
      gradient: of an entry and a position, in the weight gradient.
      activation: of an entry of an activation that is packed or unpacked.
      call: of a call of an operation.
    """

    product: float
    gradient: float
    activation: float
    call: float


COSTS = {
    "avx512": Costs(product=1.35, gradient=1.4, activation=35.0, call=1.5e6),
    "avx2": Costs(product=1.5, gradient=1.5, activation=35.0, call=1.5e6),
    "portable": Costs(product=3.0, gradient=3.6, activation=70.0, call=1.5e6),
}
"""Instruction set -> its costs, by `benchmarks/native.py` (`docs/kernels.md`)."""

TYPICAL_POSITIONS = 1024
"""The number of positions that is assumed where a layer does not know it."""
_PANEL = 64


def speedup(
    inputs: int,
    outputs: int,
    positions: int | None,
    forward_density: float,
    backward_density: float,
    cpu: str,
) -> float:
    """The expected time of the masked products over that of the native ones.

    Forward pass, input gradient and weight gradient together::

        masked = 3 p n + 3 n
        native = p (2 d_A product + d_B gradient) n + 6 p (i + o) activation + 3 call

    with p positions, rounded up to whole panels, and n = i o.

    Args:
      inputs: i.
      outputs: o.
      positions: p; None for `TYPICAL_POSITIONS`.
      forward_density: d_A, the fraction of entries in A.
      backward_density: d_B; 1 for a dense gradient.
      cpu: the instruction set of the kernels.

    >>> speedup(512, 2048, 2048, 0.1, 0.2, "avx512") > 2
    True
    >>> speedup(8, 8, 64, 0.1, 0.2, "avx512") < 1
    True
    """
    costs = COSTS[cpu]
    p = TYPICAL_POSITIONS if positions is None else positions
    whole = -(-max(p, 1) // _PANEL) * _PANEL
    n = inputs * outputs
    masked = 3 * p * n + 3 * n
    entries = 2 * forward_density * costs.product + backward_density * costs.gradient
    native = (
        whole * entries * n
        + 6 * whole * (inputs + outputs) * costs.activation
        + 3 * costs.call
    )
    return masked / native
