"""The products of a layer in a training step, mapped to rows, columns and lines."""

from __future__ import annotations

import dataclasses
import math

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.systolic import SystolicArray, systolic_cycles

FORWARD = "forward"
INPUT_GRADIENT = "input gradient"
WEIGHT_GRADIENT = "weight gradient"
PASSES = (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of matrices for each group: (vectors x depth) (depth x others).

    Args:
      groups: groups of the layer.
      vectors: vectors of the side whose zeros may be skipped; they are on the rows.
      others: vectors of the other side; they are on the columns.
      segments: parts of a vector that begin with a new line each: positions of a window.
      channels: values of a segment.
      taps: of the input gradient, the positions of the window that it has.
      side: the operand of `vectors`: ``"weights"`` or ``"activations"``.
    """

    groups: int
    vectors: int
    others: int
    segments: int
    channels: int
    taps: tuple[int, ...] = ()
    side: str = "weights"

    @property
    def macs(self) -> int:
        """Dense multiply-adds."""
        return self.groups * self.vectors * self.others * self.segments * self.channels

    def lines(self, lanes: int) -> int:
        """Lines of a vector: each segment fills whole lines."""
        return self.segments * math.ceil(self.channels / lanes)


def products_of(
    layer: Layer, of_pass: str, batch: int, side: str | None = None
) -> list[Product]:
    """The products of one pass of a layer.

    =============== ============================= ============================ =========
    pass            rows                          columns                      depth
    =============== ============================= ============================ =========
    forward         filters                       output positions             taps x
                                                                               channels
    input gradient  input channels, of W rotated  input positions of a phase   taps x
                                                                               filters
    weight gradient taps x input channels of A    filters                      output
                                                                               positions
    =============== ============================= ============================ =========

    Args:
      layer: the layer.
      of_pass: one of `PASSES`.
      batch: examples in the step.
      side: ``"activations"`` exchanges rows and columns of the forward pass, so that
        the zeros of the activations can be skipped.

    Returns:
      One product, or one for each phase of the input gradient (`Layer.phases`).

    >>> [p.macs for p in products_of(Layer.dense("fc", 20, 10), "weight gradient", 3)]
    [600]
    """
    *_, channels, filters = layer.kernel
    filters //= layer.groups
    places = batch * layer.positions
    if of_pass == FORWARD:
        if side == "activations":
            return [
                Product(layer.groups, places, filters, layer.taps, channels, side=side)
            ]
        return [Product(layer.groups, filters, places, layer.taps, channels)]
    if of_pass == INPUT_GRADIENT:
        return [
            Product(
                layer.groups, channels, batch * count, len(taps), filters, tuple(taps)
            )
            for taps, count in layer.phases
        ]
    rows = layer.taps * channels
    return [Product(layer.groups, rows, filters, 1, places, side="activations")]


def dense_cycles(product: Product, machine: Accelerator | SystolicArray) -> int:
    """Cycles of a product in which nothing is skipped.

    ``ceil(vectors / (rows tiles)) ceil(others / columns) segments ceil(channels / lanes)``

    With groups, each tile computes whole groups: ``ceil(groups / tiles) ceil(vectors /
    rows)`` in the place of the first factor. On a systolic array: `systolic_cycles` of
    each group.

    >>> from swat_tf.simulator import preset
    >>> [product] = products_of(Layer("c", (3, 3, 64, 64), (58, 58)), "forward", 1)
    >>> dense_cycles(product, preset("dadiannao"))
    7056

    Source: DNNsim's DaDianNao, from its code.
    """
    if isinstance(machine, SystolicArray):
        is_gradient = product.side == "activations"
        pixels, filters = product.others, product.vectors
        if is_gradient:
            pixels, filters = filters, pixels
        depth = product.segments * product.channels
        return product.groups * systolic_cycles(machine, pixels, filters, depth)
    lines = product.lines(machine.lanes)
    return (
        _rounds(product, machine) * math.ceil(product.others / machine.columns) * lines
    )


def _rounds(product: Product, machine: Accelerator) -> int:
    if product.groups == 1:
        return math.ceil(product.vectors / (machine.rows * machine.tiles))
    each = math.ceil(product.vectors / machine.rows)
    return math.ceil(product.groups / machine.tiles) * each
