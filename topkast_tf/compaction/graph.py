"""The graph of a Functional or Sequential model, with a number for each unit.

A unit is a place on the last axis of a tensor between two layers: a channel, a feature.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from topkast_tf import compat


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a tensor: the numbers ``first, first + 1, ...``.

    Attributes:
      first: the number of its first unit.
      shape: the tensor's shape, with the batch.
    """

    first: int
    shape: tuple[int | None, ...]

    @property
    def size(self) -> int:
        """How many there are; 0 if the tensor has no axis of units of a known size."""
        return (self.shape[-1] or 0) if len(self.shape) > 1 else 0

    @property
    def numbers(self) -> np.ndarray:
        """Their numbers."""
        return np.arange(self.first, self.first + self.size)

    @property
    def slice(self) -> slice:
        """Their place in an array of all units."""
        return slice(self.first, self.first + self.size)


@dataclasses.dataclass(frozen=True)
class Call:
    """The call of a layer.

    Attributes:
      layer: the layer, or another operation of Keras.
      inputs: the units of each input tensor.
      outputs: the units of each output tensor.
      is_plain: whether the call is as by ``layer(inputs)``, for inference.
      is_only: whether it is the only call of this layer in the model.
    """

    layer: Any
    inputs: Sequence[Units]
    outputs: Sequence[Units]
    is_plain: bool
    is_only: bool

    def __str__(self) -> str:
        return f"{self.layer.name} ({type(self.layer).__name__})"


@dataclasses.dataclass(frozen=True)
class Graph:
    """The calls of a model, in an order in which they can be computed.

    Attributes:
      calls: the calls.
      inputs: the units of the model's inputs.
      outputs: the units of the model's outputs.
      count: how many units there are in all tensors.
    """

    calls: Sequence[Call]
    inputs: Sequence[Units]
    outputs: Sequence[Units]
    count: int

    @property
    def tensors(self) -> list[Units]:
        """The units of each tensor."""
        return [*self.inputs, *(units for call in self.calls for units in call.outputs)]


def graph_of(function: Any) -> Graph:
    """The graph of a model.

    Args:
      function: as `compat.function_of` returns it.
    """
    units: dict[int, Units] = {}
    count = 0

    def number(tensors: Sequence[Any]) -> list[Units]:
        nonlocal count
        for tensor in tensors:
            if id(tensor) not in units:
                units[id(tensor)] = Units(count, tuple(tensor.shape))
                count += units[id(tensor)].size
        return [units[id(tensor)] for tensor in tensors]

    inputs = number(function.inputs)
    nodes = compat.nodes_of(function)
    layers = [id(node.operation) for node in nodes]
    calls = [
        Call(
            node.operation,
            number(node.input_tensors),
            number(node.outputs),
            _is_plain(node),
            layers.count(id(node.operation)) == 1,
        )
        for node in nodes
    ]
    return Graph(calls, inputs, number(function.outputs), count)


def _is_plain(node: Any) -> bool:
    arguments, is_layer = node.arguments, hasattr(node.operation, "weights")
    given = {key: value for key, value in arguments.kwargs.items() if value is not None}
    # In a call with training=True, a normalization uses the batch.
    others = {k: v for k, v in given.items() if (k, v) != ("training", False)}
    tensors = 1 if is_layer else len(node.input_tensors)
    return len(arguments.args) == tensors and not others


def classes(count: int, links: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The class of each unit: units that are linked are removed together or not at all.

    Args:
      count: the number of units.
      links: pairs of arrays of units, linked one by one.

    Returns:
      int ``[count]``, the lowest number in the class of each unit.

    >>> classes(4, [(np.array([0]), np.array([2])), (np.array([2]), np.array([3]))])
    array([0, 1, 0, 0])
    """
    found = np.arange(count)
    if not links:
        return found
    one, other = (np.concatenate(side).astype(int) for side in zip(*links, strict=True))
    while True:
        least = np.minimum(found[one], found[other])
        if np.array_equal(found[one], found[other]):
            return found
        for side in (one, other):
            np.minimum.at(found, found[side], least)
            np.minimum.at(found, side, least)
        found = found[found]
