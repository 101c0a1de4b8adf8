"""Whether the native kernels pay for a product: a cost model, never a timing in the run.

The same machine decides the same each time, so that a run resumes bitwise.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from topkast_tf.core.context_values import holding

KERNELS = ("auto", "masked", "native")
"""What a scope may ask for: what pays, the masked product, or the native kernels."""


_of_loaded = contextvars.ContextVar("of_loaded", default="auto")


def check(kernels: str) -> None:
    """Raises a ValueError for anything but one of `KERNELS`."""
    if kernels not in KERNELS:
        raise ValueError(
            f"Expected kernels in {KERNELS}. Received: kernels={kernels!r}"
        )


@contextlib.contextmanager
def loading_with(kernels: str) -> Iterator[None]:
    """Within it, models that are loaded outside of a scope use these kernels.

    Args:
      kernels: one of `KERNELS`.
    """
    check(kernels)
    with holding(_of_loaded, kernels):
        yield


def of_loaded() -> str:
    """The kernels of models that are loaded outside of a scope."""
    return _of_loaded.get()


class NoNativeKernels(ValueError):
    """A layer has no native kernels, and its scope asks for them."""


class Costs(NamedTuple):
    """The cost of native products on a machine.

    The unit is the time of one multiply-add of a large dense float32 product of
    TensorFlow on the same machine.

    Attributes:
      entry: of an entry and a position, in forward pass and input gradient; in the
        weight gradient it is 1.1 times that.
      activation: of an entry of the input or the output, in all three products.
      gather: of an entry, once a call: its value is read from theta, or its gradient
        written to the dense one.
    """

    entry: float
    activation: float
    gather: float


COSTS = {
    "avx512": Costs(entry=1.4, activation=46, gather=90),
    "avx2": Costs(entry=1.75, activation=37, gather=60),
    "portable": Costs(entry=3.6, activation=47, gather=60),
}
"""Instruction set -> costs, fitted to 152 shapes and densities (docs/kernels.md)."""

_GRADIENT = 1.1
_MASKED_WEIGHT, _MASKED_ACTIVATION = 78, 15
_NATIVE_WEIGHT = 45
_CALLS = 4.5e6  # of three operations, so that small layers stay as they are
_PLAN_WEIGHT, _PLAN_ENTRY = 180, 400
_PANEL = 64

TYPICAL_BATCH = 32
"""The size that an unknown axis counts as: Keras's default size of a batch."""


def speedup(
    inputs: int,
    outputs: int,
    positions: int,
    forward_density: float,
    backward_density: float,
    cpu: str,
    *,
    every: int | None = None,
    dense_gradient: bool = False,
) -> float:
    """The expected time of the masked products over that of the native ones.

    Forward pass, input gradient and weight gradient together::

        masked = 3 p n + 78 n + 15 p (i + o)
        native = p e n entry + p (i + o) activation + n (2 d_A + d_B) gather + 45 n
                 + n (180 + 400 (2 d_A + d_B)) / N + 4.5e6,   e = 2 d_A + 1.1 d_B

    with n = i o, and p rounded up to whole panels in `native`. A dense gradient costs as
    much in both.

    Args:
      inputs: i.
      outputs: o.
      positions: p.
      forward_density: d_A, the fraction of entries in A.
      backward_density: d_B.
      cpu: the instruction set of the kernels.
      every: N, the steps between two changes of the sets; None if they stay.
      dense_gradient: whether the weight gradient is dense.

    >>> speedup(512, 2048, 2048, 0.1, 0.2, "avx512") > 2
    True
    >>> speedup(8, 8, 64, 0.1, 0.2, "avx512") < 1
    True
    """
    costs = COSTS[cpu]
    p = max(positions, 1)
    whole = -(-p // _PANEL) * _PANEL
    n, ends = inputs * outputs, inputs + outputs
    d_b = 0.0 if dense_gradient else backward_density
    entries = 2 * forward_density + d_b
    masked = 3 * p * n + _MASKED_WEIGHT * n + _MASKED_ACTIVATION * p * ends
    native = (
        whole * (2 * forward_density + _GRADIENT * d_b) * n * costs.entry
        + whole * ends * costs.activation
        + n * entries * costs.gather
        + _NATIVE_WEIGHT * n
        + _CALLS
    )
    if dense_gradient:
        native += p * n
    if every is not None:
        native += n * (_PLAN_WEIGHT + _PLAN_ENTRY * entries) / every
    return masked / native


def speedup_of_convolution(
    weight: Sequence[int],
    images: int,
    sizes: Sequence[int],
    outputs: Sequence[int],
    strides: Sequence[int],
    forward_density: float,
    backward_density: float,
    cpu: str,
    *,
    every: int | None = None,
    dense_gradient: bool = False,
) -> float:
    """As `speedup`, of a convolution."""
    del strides
    p = images * math.prod(outputs)
    n = math.prod(weight)
    masked = 3 * p * n
    native = p * n * 1.6 * (2 * forward_density + 1.3 * backward_density)
    native += (
        46 * images * (math.prod(sizes) * weight[-2] + math.prod(outputs) * weight[-1])
    )
    return masked / (native + _CALLS)
