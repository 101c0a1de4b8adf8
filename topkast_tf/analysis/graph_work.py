"""What a graph does per example beside its products: elementwise work, operand sizes.

The traversal is that of `topkast_tf.analysis.graph_macs`: it enters the functions, loops
and branches that a graph calls, and nothing is run. Only operations that depend on the
model's input count: what is done to weights alone is not done per example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf.analysis import graph_macs
from topkast_tf.analysis.graph_macs import Frame, Weight
from topkast_tf.analysis.op_macs import PRODUCTS, size

INPUTS, OUTPUTS = "inputs", "outputs"
"""Keys of `Work`, with a weight: entries of the other operand of its products, and of
their results. The other keys are types of operations."""

Work = Counter[Any]


class _Done(NamedTuple):
    """What a graph does, and which of its outputs depend on the data."""

    work: Work
    depends: set[int]


def _outputs(op: tf.Operation) -> int:
    return size(op.outputs[0])


def _inputs(op: tf.Operation) -> int:
    return size(op.inputs[0])


def _sum_of_many(op: tf.Operation) -> int:
    return (len(op.inputs) - 1) * size(op.outputs[0])


def _window(op: tf.Operation) -> int:
    return math.prod(op.get_attr("ksize")) * size(op.outputs[0])


_ONE = (
    "Add AddV2 BiasAdd Sub Mul MulNoNan RealDiv Div DivNoNan Maximum Minimum Neg Abs "
    "Relu Relu6 LeakyRelu Elu Selu Softplus Softsign Sigmoid Tanh Erf Exp Expm1 Log Log1p "
    "Sqrt Rsqrt Square SquaredDifference Reciprocal Pow Sin Cos"
).split()
_TWO = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_FIVE = ("Softmax", "LogSoftmax")

ELEMENTWISE: dict[str, Callable[[tf.Operation], int]] = {
    **dict.fromkeys(_ONE, _outputs),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min", "Prod", "Cumsum"), _inputs),
    **dict.fromkeys(("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"), _window),
    **dict.fromkeys(_TWO, lambda op: 2 * _outputs(op)),
    **dict.fromkeys(_FIVE, lambda op: 5 * _outputs(op)),
    "AddN": _sum_of_many,
}
"""Operation type -> its FLOPs, if its result is of floating-point numbers.

One for each entry of the result, whatever the function. A reduction has one for each entry
that it reads, a pool one for each of its window; a batch normalisation for inference has
two (scale and offset), a softmax five (maximum, subtraction, exponential, sum, division).
"""


def work_of(frame: Frame, inputs: int) -> Work:
    """The work of one run of a traced call.

    Args:
      frame: of the call, with the weights that it may read.
      inputs: how many of the graph's inputs are the model's: the first ones.

    Returns:
      {type of operation: its FLOPs} for those of `ELEMENTWISE`, and
      {(`INPUTS` or `OUTPUTS`, weight): entries}.
    """
    names = [tensor.name for tensor in frame.graph.inputs[:inputs]]
    return _walk(frame, set(names)).work


def _walk(frame: Frame, data: set[str]) -> _Done:
    """The work of a graph, given the names of its inputs that depend on the data."""
    work: Work = Counter()
    known = set(data)
    for op in graph_macs.live(frame.graph):
        if not any(tensor.name in known for tensor in op.inputs):
            continue
        outputs = set(range(len(op.outputs)))
        if op.type in graph_macs.FUNCTION_CALLS:
            inner = frame.enter(op.get_attr("f"), op.inputs)
            done = _walk(inner, _passed(inner, op.inputs, known))
            work.update(done.work)
            outputs = done.depends
        elif op.type in graph_macs.LOOPS:
            work.update(_loop(op, frame))
        elif op.type in graph_macs.BRANCHES:
            work.update(_branches(op, frame, known))
        elif op.type in PRODUCTS:
            work.update(_operands(op, frame))
        elif op.type in ELEMENTWISE and op.outputs[0].dtype.is_floating:
            # Integers are counters, masks and keys: those of a selection stand apart.
            work[op.type] += ELEMENTWISE[op.type](op)
        known.update(op.outputs[i].name for i in outputs)
    depends = {
        i
        for i, tensor in enumerate(frame.graph.outputs)
        if isinstance(tensor, tf.Tensor) and tensor.name in known
    }
    return _Done(work, depends)


def _passed(inner: Frame, args: Any, known: set[str]) -> set[str]:
    """The inputs of a function that depend on the data."""
    pairs = zip(inner.graph.inputs, args, strict=False)
    return {placeholder.name for placeholder, arg in pairs if arg.name in known}


def _operands(op: tf.Operation, frame: Frame) -> Work:
    """The sizes of what a product reads and makes, by the weight that it reads most of."""
    _, operands = PRODUCTS[op.type](op)
    for at in operands:
        shares = frame.sources(op.inputs[at])
        if shares:
            weight: Weight = max(shares, key=lambda each: shares[each])
            entries = size(op.inputs[_other_operand(op, at)])
            return Counter({(INPUTS, weight): entries, (OUTPUTS, weight): _outputs(op)})
    return Counter()


def _other_operand(op: tf.Operation, at: int) -> int:
    """The place of what a product multiplies the operand at a place by."""
    if "Backprop" in op.type:  # a transposed convolution; the first input is a shape
        return 2
    return 0 if "Conv" in op.type else 1 - at


def _loop(op: tf.Operation, frame: Frame) -> Work:
    invariant = graph_macs.invariant_inputs(frame, op)
    body = frame.enter(op.get_attr("body"), invariant)
    # Whatever it carries may depend on the data.
    carried = {
        placeholder.name
        for placeholder, kept in zip(body.graph.inputs, invariant, strict=True)
        if kept is None
    }
    once = _walk(body, carried).work
    trips = graph_macs.trips(op, frame) if once else 0
    return Counter({key: n * trips for key, n in once.items()})


def _branches(op: tf.Operation, frame: Frame, known: set[str]) -> Work:
    """Of the branch with most work: which one is taken may follow from the step alone."""
    found = []
    for branch in graph_macs.branches_of(op):
        inner = frame.enter(branch, op.inputs[1:])
        found.append(_walk(inner, _passed(inner, op.inputs[1:], known)).work)
    return max(found, key=lambda work: sum(work.values()))
