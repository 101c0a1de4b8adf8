"""The operations of a LiteRT file, and the Keras layers that they come from."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operations with a kernel, their second input."""
_NONE = np.zeros(0, np.float32)


@dataclasses.dataclass
class Operation:
    """An operation of a LiteRT file.

    Attributes:
      kind: its name in LiteRT, such as ``"CONV_2D"``.
      inputs: tensors that other operations, or the caller, make.
      outputs: tensors that it makes.
      shapes: of all its inputs, constants too.
      constants: whole arrays that it reads, by their place among the inputs.
      options: of a convolution: stride, dilation, `same`, multiplier.
      layer: the layer that its filter, or its output, is named after.
      padding: (top, bottom, left, right) of a PAD before it.
    """

    kind: str
    inputs: list[int]
    outputs: list[int]
    shapes: list[tuple[int, ...]]
    constants: dict[int, np.ndarray]
    options: dict[str, Any]
    layer: str
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its first input."""
        return self.shapes[0] if self.shapes else ()

    @property
    def filter(self) -> np.ndarray:
        """Its kernel, ``(outputs, height, width, inputs)``; empty if it is not stored."""
        is_weighted = self.kind in WEIGHTED and 0 not in self.constants
        return self.constants.get(1, _NONE) if is_weighted else _NONE

    @property
    def zeros(self) -> int:
        """How many entries of its kernel are zero."""
        return int((self.filter == 0).sum())

    @property
    def is_pointwise(self) -> bool:
        """Whether its weights are those of a 1 x 1 convolution, or fully connected."""
        if self.kind == "FULLY_CONNECTED":
            return self.filter.size > 0
        return self.kind == "CONV_2D" and self.filter.shape[1:3] == (1, 1)


def operations_of(
    content: bytes, schema: Any, layers: Mapping[str, str]
) -> tuple[list[Operation], set[int]]:
    """The operations of a file, and the tensors that its caller gives or gets.

    Args:
      content: of the file, with whole kernels (``sparse_encoding=False``).
      schema: the module of classes that read it (`schema_py_generated` of LiteRT).
      layers: names to look for in the names of tensors -> names of layers.

    Raises:
      ValueError: for a file of several graphs.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if len(model.subgraphs) != 1:
        raise ValueError(
            "Expected a LiteRT file of one graph, without loops or branches. Received: "
            f"{len(model.subgraphs)} graphs"
        )
    [graph] = model.subgraphs
    kinds = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int)
    }

    def constant(index: int) -> np.ndarray | None:
        tensor = graph.tensors[index]
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        as_types = {
            schema.TensorType.FLOAT32: np.float32,
            schema.TensorType.FLOAT16: np.float16,
            schema.TensorType.INT32: np.int32,
            schema.TensorType.INT64: np.int64,
        }
        dtype = as_types.get(tensor.type, np.uint8)
        shape = tensor.shape if dtype is not np.uint8 else (-1,)
        return np.asarray(data, np.uint8).view(dtype).reshape(shape)

    operations, names = [], []
    for operation in graph.operators:
        code = model.operatorCodes[operation.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        given = [index for index in operation.inputs if index >= 0]
        values = [constant(index) for index in given]
        options = operation.builtinOptions
        operations.append(
            Operation(
                kind,
                [i for i, value in zip(given, values, strict=True) if value is None],
                list(operation.outputs),
                [tuple(graph.tensors[index].shape) for index in given],
                {k: value for k, value in enumerate(values) if value is not None},
                vars(options) if options is not None else {},
                "",
            )
        )
        named = [*given[1:2], operation.outputs[0]]
        names.append([graph.tensors[index].name.decode() for index in named])
    for each, layer in zip(operations, layers_in(names, layers), strict=True):
        each.layer = layer
    return operations, {*graph.inputs, *graph.outputs}


def layers_in(tensors: Sequence[Sequence[str]], layers: Mapping[str, str]) -> list[str]:
    """The layers that operations belong to, by the names of their tensors.

    A traced model numbers the calls of its layers, so that ``"conv_1"`` is the second call
    of `conv` or the first of `conv_1`: the reading that finds more layers counts.

    Args:
      tensors: of each operation the names of its filter, if it has one, and its output.
      layers: names to look for -> names of layers.

    Returns:
      For each operation the path of the layer below the model, or what stands before the
      last slash if no layer is found.

    >>> layers_in([["net_1/conv_1/Conv2D"]], {"conv": "conv", "conv_1": "conv_1"})
    ['conv']
    >>> layers_in([["arith.constant", "net/a/conv/Relu;net/a/conv/Conv2D"]], {"conv": "c"})
    ['a/c']
    """
    paths = [
        [name.split("/")[:-1] for each in names for name in each.split(";")]
        for names in tensors
    ]
    readings = [
        [
            _layer_of([[read(part) for part in path] for path in each], layers)
            for each in paths
        ]
        for read in (lambda part: re.sub(r"_\d+$", "", part), lambda part: part)
    ]
    best = max(readings, key=lambda found: len({*found} - {None}))
    return [
        layer
        or next((path[-1] for path in each if path), re.sub(r":\d+$", "", names[-1]))
        for layer, each, names in zip(best, paths, tensors, strict=True)
    ]


def _layer_of(paths: Sequence[Sequence[str]], layers: Mapping[str, str]) -> str | None:
    """The path below the model of the first layer that is found."""
    for path in paths:
        for place in range(len(path) - 1, -1, -1):
            if path[place] in layers:
                return "/".join([*path[1:place], layers[path[place]]])
    return None
