"""The cost of one operation of a TensorFlow graph, in multiply-adds."""

import math
from collections.abc import Callable

import tensorflow as tf


def size(tensor: tf.Tensor) -> int:
    """The number of entries of a tensor; raises a ValueError if it is unknown."""
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            "Expected every shape to follow from the shape of the input; give "
            f"`input_spec` with every dimension. Received: {tensor.op.name} of shape "
            f"{tensor.shape}"
        )
    return math.prod(tensor.shape)


def _matmul(op: tf.Operation) -> tuple[int, tuple[int, ...]]:
    transposed = "adj_x" if op.type.startswith("Batch") else "transpose_a"
    size(op.inputs[0])
    inner = op.inputs[0].shape[-2 if op.get_attr(transposed) else -1]
    return size(op.outputs[0]) * inner, (1, 0)


def _taps(op: tf.Operation) -> int:
    """The number of kernel entries that contribute to one output entry of a convolution."""
    kernel = op.inputs[1]
    filters = kernel.shape[-1]
    if op.type.startswith("Depthwise"):
        filters *= kernel.shape[-2]
    return size(kernel) // filters


def _convolution(op: tf.Operation) -> tuple[int, tuple[int, ...]]:
    return size(_undilated(op.outputs[0])) * _taps(op), (1,)


def _transposed_convolution(op: tf.Operation) -> tuple[int, tuple[int, ...]]:
    # The layer's input is the output of the convolution that it transposes.
    return size(op.inputs[2]) * _taps(op), (1,)


def _undilated(tensor: tf.Tensor) -> tf.Tensor:
    """The final output of a dilated convolution that runs on space-to-batch blocks.

    The blocks may be padded; only the positions of the final output are counted.
    """
    end = tensor
    while end.op.type != "BatchToSpaceND":
        users = end.consumers()
        if len(users) != 1 or users[0].type not in ("Squeeze", "BatchToSpaceND"):
            return tensor
        end = users[0].outputs[0]
    return end


def _einsum(op: tf.Operation) -> tuple[int, tuple[int, ...]]:
    # The labels are one character each, an ellipsis included.
    left, result = op.get_attr("equation").decode().replace("...", "…").split("->")
    first, *others = left.split(",")
    if not others:
        return 0, ()
    inner = 1
    # A label of only one operand that is not in the result is summed away beforehand.
    for label in set(first) & set(others[0]) - set(result):
        at = first.index(label)
        inner *= op.inputs[0].shape[at - len(first) if "…" in first[:at] else at]
    return size(op.outputs[0]) * inner, (1, 0)


PRODUCTS: dict[str, Callable[[tf.Operation], tuple[int, tuple[int, ...]]]] = {
    **dict.fromkeys(
        ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul
    ),
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), _convolution),
    **dict.fromkeys(
        (
            "Conv2DBackpropInput",
            "Conv3DBackpropInput",
            "Conv3DBackpropInputV2",
            "DepthwiseConv2dNativeBackpropInput",
        ),
        _transposed_convolution,
    ),
    "Einsum": _einsum,
}
"""Operation type -> its multiply-adds, and which inputs may be the weight, in the
order of preference."""
