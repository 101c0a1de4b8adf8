"""Whether the native kernels pay for a product: a cost model, never a timing in the run.

The same machine decides the same each time, so that a run resumes bitwise.
"""

import math
from typing import NamedTuple, NoReturn

import tensorflow as tf

from topkast_tf import compat

AUTO, MASKED, NATIVE = KERNELS = ("auto", "masked", "native")
"""What a scope may ask for: what pays, the masked product, or the native kernels."""

DTYPES = ("float32", "bfloat16")
"""What native products compute in; variables are float32."""


def check(kernels: str) -> None:
    """Raises a ValueError for anything but one of `KERNELS`."""
    if kernels not in KERNELS:
        raise ValueError(
            f"Expected kernels in {KERNELS}. Received: kernels={kernels!r}"
        )


class NoNativeKernels(ValueError):
    """A layer has no native kernels, and its scope asks for them."""


class Choice(NamedTuple):
    """How the product of a layer is computed.

    Attributes:
      kernels: `MASKED` or `NATIVE`.
      why: a short phrase.
    """

    kernels: str
    why: str


def refuse(path: str, why: str | None) -> NoReturn:
    """Raises, as a weight cannot have the native kernels that its scope asks for."""
    raise NoNativeKernels(
        "Expected a layer that has native kernels, as kernels='native' asks for. "
        f"Received: {path}: {why}"
    )


ACCELERATOR = "native kernels are for the CPU, and there is an accelerator"
XLA = "XLA compiles the masked product"


def why_elsewhere() -> str | None:
    """Why what is traced now does not run on the CPU's own kernels, or None."""
    if compat.has_accelerator():
        return ACCELERATOR
    if compat.is_compiled(tf.compat.v1.get_default_graph()):
        return XLA
    return None


class Costs(NamedTuple):
    """The cost of native products on a machine.

    The unit is the time of one multiply-add of a large dense float32 product of
    TensorFlow on the same machine.

    Attributes:
      entry: of an entry and a position, in forward pass and input gradient.
      gradient: the same in the weight gradient.
      activation: of an entry of the input or the output, in all three products.
      gather: of an entry, once a call: its value is read from theta, or its gradient
        written to the dense one.
    """

    entry: float
    gradient: float
    activation: float
    gather: float


class WeightCosts(NamedTuple):
    """The cost of an entry of a weight, in the unit of `Costs`.

    Attributes:
      call: in each step.
      plan: whenever the sets change.
      plan_entry: in addition, of an entry of A in either product, and of B.
    """

    call: float
    plan: float
    plan_entry: float


COSTS = {
    "avx512": Costs(entry=1.1, gradient=1.54, activation=46, gather=90),
    "avx2": Costs(entry=1.75, gradient=1.925, activation=37, gather=60),
    "portable": Costs(entry=3.6, gradient=3.96, activation=47, gather=60),
}
"""Instruction set -> costs, fitted to 152 shapes and densities; the entry of generated code
(AVX-512) to 24 (docs/kernels.md)."""

BLOCK_COSTS = {
    "avx512": Costs(entry=1.0, gradient=1.0, activation=32, gather=20),
    "avx2": Costs(entry=1.35, gradient=1.3, activation=34, gather=20),
}
"""Instruction set -> costs of weights whose sets are whole blocks, fitted to two shapes at
three densities; where there are none, single entries are as fast (docs/kernels.md)."""

DENSE_BFLOAT16 = {"amx_bf16": 1 / 16, "avx512_bf16": 0.5, "none": 1.0}
"""What multiplies bfloat16 numbers (`library.BFLOAT16_UNITS`) -> the cost of a multiply-add
of a large dense product of TensorFlow in bfloat16, in the unit of `Costs`.

Measured: 0.52 to 0.58 with AVX-512, and 1.1 or more without a unit. That of AMX is the
ratio of peaks, not measured: there, few layers have native kernels in bfloat16."""

_OF_PAIRS = Costs(entry=1.1, gradient=0.9, activation=40, gather=90)
_CONVOLUTION_OF_PAIRS = Costs(entry=1.4, gradient=1.0, activation=90, gather=200)
"""Of products in bfloat16 where AVX-512 multiplies pairs, fitted to 12 matrices and 8
convolutions at 4 densities."""

_CONVERTED = 50  # of an activation in bfloat16, with AVX2
_MASKED_WEIGHT, _MASKED_ACTIVATION = 78, 15
_MATRIX = WeightCosts(call=45, plan=180, plan_entry=400)
_BLOCKS = WeightCosts(call=45, plan=60, plan_entry=10)
_COMPRESSED, _COPIED = 45, 20  # of an activation, and of an error
_CALLS = 4.5e6  # of three operations, so that small layers stay as they are
_PANEL = 64
_TILE = 192
"""Positions of sparse activations whose errors are copied together, padded."""

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
    dense_gradient: float = 0.0,
    activation_density: float | None = None,
    has_blocks: bool = False,
    bfloat16: str | None = None,
) -> float:
    """The expected time of the masked products over that of the native ones.

    Forward pass, input gradient and weight gradient together::

        masked = 3 p n dense + 78 n + 15 p (i + o)
        native = p n (2 d_A entry + d_B gradient) + p (i + o) activation
                 + n (2 d_A + d_B) gather + 45 n
                 + n (180 + 400 (2 d_A + d_B)) / N + 4.5e6

    with n = i o, p rounded up to whole panels in `native`, and dense 1, or in bfloat16 that
    of `DENSE_BFLOAT16`. A dense gradient costs as much in both.

    Args:
      inputs: i.
      outputs: o.
      positions: p.
      forward_density: d_A, the fraction of entries in A.
      backward_density: d_B.
      cpu: the instruction set of the kernels.
      every: N, the steps between two changes of the sets; None if they stay.
      dense_gradient: the fraction of steps in which the weight gradient is dense.
      activation_density: d_x, the fraction of activations from which a dense weight
        gradient is computed: its cost is that of d_x n p entries and of ``p (45 i + 20
        o)`` to find and copy them. None if it is computed from all.
      has_blocks: whether the sets are whole blocks, which have costs of their own
        (`BLOCK_COSTS`).
      bfloat16: what multiplies bfloat16 numbers on the machine, for a layer that computes
        in bfloat16; None for float32.

    >>> speedup(512, 2048, 2048, 0.1, 0.2, "avx512") > 2
    True
    >>> speedup(512, 2048, 2048, 0.1, 0.2, "avx512", bfloat16="avx512_bf16") > 2
    True
    >>> speedup(8, 8, 64, 0.1, 0.2, "avx512") < 1
    True
    """
    costs, dense = COSTS[cpu], _dense(bfloat16)
    if has_blocks:
        costs = BLOCK_COSTS[cpu]
    elif _multiplies_pairs(cpu, bfloat16):
        costs = _OF_PAIRS
    elif bfloat16 is not None and cpu == "avx2":
        costs = costs._replace(activation=_CONVERTED)
    p = max(positions, 1)
    whole = -(-p // _PANEL) * _PANEL
    n, ends = inputs * outputs, inputs + outputs
    masked = 3 * p * n * dense + _MASKED_WEIGHT * n + _MASKED_ACTIVATION * p * ends
    elsewhere = p * n * dense  # the cost of a dense weight gradient
    if activation_density is not None:
        dense_gradient = 1.0
        elsewhere = whole * n * activation_density * COSTS[cpu].gradient
        elsewhere += p * (_COMPRESSED * inputs + _COPIED * outputs)
    densities = forward_density, backward_density
    weight = _BLOCKS if has_blocks else _MATRIX
    return masked / _native(
        *(costs, weight, n, whole * n, whole * ends, densities),
        *(dense_gradient, elsewhere, every),
    )


def _dense(bfloat16: str | None) -> float:
    return 1.0 if bfloat16 is None else DENSE_BFLOAT16[bfloat16]


def _multiplies_pairs(cpu: str, bfloat16: str | None) -> bool:
    return cpu == "avx512" and bfloat16 in ("avx512_bf16", "amx_bf16")


def _native(
    costs: Costs,
    weight: WeightCosts,
    n: int,
    products: int,
    activations: int,
    densities: tuple[float, float],
    dense_gradient: float,
    elsewhere: float,
    every: int | None,
) -> float:
    """The time of the native products of a weight of n entries (see `speedup`).

    Args:
      costs: of the products.
      weight: of the weight.
      n: its entries.
      products: the multiply-adds of a dense product of its size.
      activations: entries of input and output.
      densities: d_A and d_B.
      dense_gradient: the fraction of steps in which the weight gradient is dense.
      elsewhere: its cost then.
      every: N, or None.
    """
    d_a, d_b = densities
    d_b *= 1 - dense_gradient
    entries = 2 * d_a + d_b
    native = (
        products * (2 * d_a * costs.entry + d_b * costs.gradient)
        + activations * costs.activation
        + n * entries * costs.gather
        + n * weight.call
        + _CALLS
        + dense_gradient * elsewhere
    )
    if every is not None:
        native += n * (weight.plan + weight.plan_entry * entries) / every
    return native


CONVOLUTION_COSTS = {
    "avx512": Costs(entry=1.4, gradient=1.6, activation=95, gather=200),
    "avx2": Costs(entry=1.25, gradient=2.0, activation=100, gather=155),
    "portable": Costs(entry=2.5, gradient=5.6, activation=130, gather=115),
}
"""Instruction set -> costs, fitted to 20 layers at 5 densities (docs/kernels.md)."""

# TensorFlow's own convolution with groups is compiled by XLA: its forward pass takes twice
# as long as one without them, its gradients up to 100 times (docs/kernels.md).
_GROUPED = 5
_DENSE_CONVOLUTION, _MASKED_KERNEL, _MASKED_IMAGE = 0.84, 300, 97
_CONVOLUTION = WeightCosts(call=65, plan=330, plan_entry=1200)
_LANES = {"avx512": 16, "avx2": 8, "portable": 4}


class ConvolutionSizes(NamedTuple):
    """The sizes of a convolution.

    Attributes:
      images: the size of the batch.
      inputs: rows and columns of the input, or steps of a sequence.
      outputs: those of the output.
      weight: shape of the weight: window, input channels of a group, output channels.
      groups: into which the channels are divided.
      dilations: of the window; none: of 1.
    """

    images: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int = 1
    dilations: tuple[int, ...] = ()


def _padded_errors(sizes: ConvolutionSizes) -> int:
    """Positions of the errors that are copied for the entries of sparse activations.

    Each tile of rows needs the errors of all outputs that it reaches: with a large dilation
    most of them belong to several tiles.
    """
    rows, cols = (1, *sizes.inputs)[-2:]
    dilations = sizes.dilations or (1,) * len(sizes.inputs)
    halo = [
        (size - 1) * dilation
        for size, dilation in zip(sizes.weight[:-2], dilations, strict=True)
    ]
    above, beside = (0, *halo)[-2:]
    band = max(1, min(rows, _TILE // max(1, cols)))
    tiles = -(-rows // band)
    return sizes.images * (rows + tiles * above) * (cols + beside)


def speedup_of_convolution(
    sizes: ConvolutionSizes,
    forward_density: float,
    backward_density: float,
    cpu: str,
    *,
    every: int | None = None,
    dense_gradient: float = 0.0,
    activation_density: float | None = None,
    bfloat16: str | None = None,
) -> float:
    """As `speedup`, of a convolution.

    ::

        masked = 0.84 * 3 p n dense (5 with groups) + 300 n + 97 a
        native = q n (2 d_A entry + d_B gradient) + a activation
                 + n (2 d_A + d_B) gather + 65 n
                 + n (330 + 1200 (2 d_A + d_B)) / N + 4.5e6

    with p the positions of the output, n the entries of the weight, a those of input and
    output, and q the positions p with the lanes of vectors that no position fills: rows
    of some images side by side are divided into vectors.

    >>> sizes = ConvolutionSizes(32, (28, 28), (28, 28), (3, 3, 128, 128))
    >>> speedup_of_convolution(sizes, 0.1, 0.2, "avx512") > 2
    True
    """
    costs, lanes = CONVOLUTION_COSTS[cpu], _LANES[cpu]
    dense = _DENSE_CONVOLUTION * _dense(bfloat16)
    if _multiplies_pairs(cpu, bfloat16) and sizes.images > 1:
        costs = _CONVOLUTION_OF_PAIRS
    images, width = max(sizes.images, 1), sizes.outputs[-1]
    groups = [2**k for k in range(5) if 2**k <= lanes]
    vectors = min(-(-images // g) * -(-width * g // lanes) for g in groups)
    rows = math.prod(sizes.outputs[:-1])
    p, q = images * rows * width, vectors * lanes * rows
    n = math.prod(sizes.weight)
    ends = images * (
        math.prod(sizes.inputs) * sizes.weight[-2] * sizes.groups
        + math.prod(sizes.outputs) * sizes.weight[-1]
    )
    if sizes.groups > 1:
        dense *= _GROUPED
    masked = 3 * p * n * dense + _MASKED_KERNEL * n + _MASKED_IMAGE * ends
    elsewhere = p * n * dense
    if activation_density is not None:
        dense_gradient = 1.0
        padded = -(-sizes.weight[-1] // _PANEL) * _PANEL / sizes.weight[-1]
        elsewhere = p * n * padded * activation_density * COSTS[cpu].gradient
        elsewhere += _COMPRESSED * ends
        elsewhere += _COPIED * _padded_errors(sizes) * sizes.weight[-1]
    densities = forward_density, backward_density
    return masked / _native(
        *(costs, _CONVOLUTION, n, q * n, ends, densities),
        *(dense_gradient, elsewhere, every),
    )
