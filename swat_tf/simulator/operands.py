"""The operand whose zeros are skipped, as lines of lanes."""

from __future__ import annotations

import itertools

import numpy as np

from swat_tf.simulator.layers import Layer
from swat_tf.simulator.products import FORWARD, WEIGHT_GRADIENT, Product


def operand_lines(
    layer: Layer,
    of_pass: str,
    product: Product,
    mask: np.ndarray,
    lanes: int,
    fill: bool = False,
) -> np.ndarray:
    """Which values of the operand on the rows are not zero.

    Args:
      layer: the layer.
      of_pass: forward, input gradient or weight gradient.
      product: one of `products_of`.
      mask: of `product.side`: the weights, of the kernel's shape, or the activations,
        (examples, spatial sizes..., channels); true where not zero.
      lanes: of a line.
      fill: what stands for lanes without a channel and positions outside of the image.

    Returns:
      Booleans, (groups x vectors, lines, lanes); those of a group are together.

    >>> layer = Layer.dense("fc", 5, 1)
    >>> from swat_tf.simulator.products import products_of
    >>> [product] = products_of(layer, "forward", 1)
    >>> mask = np.array([[[1], [0], [1], [1], [1]]], bool)
    >>> operand_lines(layer, "forward", product, mask, 4).astype(int)
    array([[[1, 0, 1, 1],
            [1, 0, 0, 0]]])
    """
    if of_pass == FORWARD and product.side == "activations":
        found = _windows(layer, mask, fill)  # taps, places, groups, channels
        return _in_lines(_joined(found.transpose(2, 1, 0, 3)), lanes, fill)
    if of_pass == WEIGHT_GRADIENT:
        found = _windows(layer, mask, fill).transpose(2, 0, 3, 1)
        by_group = found.reshape(layer.groups, -1, 1, found.shape[-1])
        return _in_lines(_joined(by_group), lanes, fill)
    *_, channels, filters = layer.kernel
    # Of a filter f, its group is the quotient by the filters of a group.
    kernel = mask.reshape(layer.taps, channels, layer.groups, filters // layer.groups)
    if of_pass == FORWARD:
        return _in_lines(_joined(kernel.transpose(2, 3, 0, 1)), lanes, fill)
    rotated = kernel[list(product.taps)[::-1]]
    return _in_lines(_joined(rotated.transpose(2, 1, 0, 3)), lanes, fill)


def _joined(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def _in_lines(values: np.ndarray, lanes: int, fill: bool) -> np.ndarray:
    """(vectors, segments, channels) -> (vectors, lines, lanes), filled up."""
    vectors, segments, channels = values.shape
    short = -channels % lanes
    if short:
        values = np.pad(values, ((0, 0), (0, 0), (0, short)), constant_values=fill)
    return values.reshape(vectors, segments * ((channels + short) // lanes), lanes)


def _windows(layer: Layer, activations: np.ndarray, fill: bool) -> np.ndarray:
    """The activations at each tap: (taps, output positions, groups, channels)."""
    around = ((0, 0), *layer.padding, (0, 0))
    padded = np.pad(activations, around, constant_values=fill)
    taps = []
    for tap in itertools.product(*map(range, layer.window)):
        places = tuple(
            slice(at * dilation, at * dilation + (out - 1) * stride + 1, stride)
            for at, dilation, out, stride in zip(
                tap, layer.dilation, layer.outputs, layer.strides, strict=True
            )
        )
        each = padded[(slice(None), *places)]
        taps.append(each.reshape(-1, layer.groups, layer.kernel[-2]))
    return np.stack(taps)
