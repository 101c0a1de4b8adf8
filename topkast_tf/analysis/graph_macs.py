"""Counts the products in a graph, and attributes them to weights.

The traversal enters the functions, loops and branches that a graph calls; nothing is run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf import compat
from topkast_tf.analysis.op_macs import PRODUCTS, size

FUNCTION_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")

# Keys of a count: a weight, this, or the name of an uncounted operation.
ACTIVATIONS = ""
Count = Counter[Any]

_MAX_TRIPS = 1_000_000

# Multiplying operations that the count cannot see into.
_OPAQUE = re.compile("MatMul|Conv(?!ert)|Einsum|XlaDot|LSTM|GRU|RNN|Attention|PyFunc")

# Operations that read only the shape of their input.
_SHAPE_ONLY = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}

# Operations whose output is zero wherever the given input is: they preserve the zeros of
# a sparse weight. Sums are not included.
_CARRIES = dict.fromkeys(
    "Identity Cast Reshape Transpose ExpandDims Squeeze StopGradient PreventGradient "
    "Snapshot EnsureShape CheckNumerics Neg Abs Sign RealDiv Div Slice StridedSlice "
    "SplitV Unpack ReverseV2 Roll Pad Tile BroadcastTo".split(),
    0,
) | {"Split": 1}

_CONSTANT_OPS: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Cast": lambda x: x,
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Max": lambda x, axes: np.max(x, tuple(np.ravel(axes))),
    "Min": lambda x, axes: np.min(x, tuple(np.ravel(axes))),
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "LogicalNot": np.logical_not,
}


@dataclass(frozen=True)
class Weight:
    """A weight to which a product may be attributed.

    Attributes:
      path: its name in the count.
      trainable: whether it is trainable; a mask, for example, is not.
    """

    path: str
    trainable: bool


class Frame:
    """A graph in one call of it, and the origins of the call's inputs."""

    def __init__(self, graph: Any, args: Any = (), caller: Frame | None = None):
        self.graph = graph
        self.caller = caller
        # Placeholder name -> tensor of the caller.
        self.args = {
            placeholder.name: arg
            for placeholder, arg in zip(graph.inputs, args, strict=False)
            if arg is not None
        }
        self.weights: dict[str, Weight] = {}
        self.constants: dict[str, Any] = {}
        self.shares: dict[str, dict[Weight, Fraction]] = {}

    def enter(self, function: Any, args: Any = ()) -> Frame:
        """The frame of a function that an operation of this graph calls."""
        frame: Frame | None = self
        while frame is not None:
            graph = compat.function_graph(frame.graph, function.name)
            if graph is not None:
                return Frame(graph, args, self)
            frame = frame.caller
        raise ValueError(f"Expected a function of the graph. Received: {function.name}")

    def origin(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Frame]:
        """The tensor that the caller passed, if `tensor` is an input of a call."""
        frame = self
        while tensor.name in frame.args and frame.caller is not None:
            tensor, frame = frame.args[tensor.name], frame.caller
        return tensor, frame

    def constant(self, tensor: tf.Tensor) -> Any:
        """The value of a tensor that follows from constants and shapes, or None."""
        tensor, frame = self.origin(tensor)
        if tensor.name in frame.constants:
            return frame.constants[tensor.name]
        value = tf.get_static_value(tensor)
        op = tensor.op
        if value is not None or op.type not in (*_CONSTANT_OPS, "StridedSlice"):
            return value
        args = [frame.constant(arg) for arg in op.inputs]
        if any(arg is None for arg in args):
            return None
        if op.type == "StridedSlice":
            # One entry, as in `tf.shape(x)[1]`.
            one = op.get_attr("shrink_axis_mask") == 1 and np.ndim(args[0]) == 1
            return args[0][args[1][0]] if one else None
        value = _CONSTANT_OPS[op.type](*args)
        return np.asarray(value, tensor.dtype.as_numpy_dtype)

    def sources(self, tensor: tf.Tensor) -> dict[Weight, Fraction]:
        """The weights that a tensor is made from, with the fraction that each fills."""
        tensor, frame = self.origin(tensor)
        if tensor.name not in frame.shares:
            frame.shares[tensor.name] = frame._sources(tensor)
        return frame.shares[tensor.name]

    def _sources(self, tensor: tf.Tensor) -> dict[Weight, Fraction]:
        op = tensor.op
        if op.type == "ReadVariableOp":
            handle, frame = self.origin(op.inputs[0])
            weight = frame.weights.get(handle.name)
            return {weight: Fraction(1)} if weight else {}
        if op.type in _CARRIES:
            return self.sources(op.inputs[_CARRIES[op.type]])
        if op.type == "IdentityN":
            return self.sources(op.inputs[tensor.value_index])
        if op.type in FUNCTION_CALLS:
            inner = self.enter(op.get_attr("f"), op.inputs)
            return inner.sources(inner.graph.outputs[tensor.value_index])
        if op.type in LOOPS and _is_invariant(self, op, tensor.value_index):
            return self.sources(op.inputs[tensor.value_index])
        if op.type in ("ConcatV2", "Pack"):
            parts: dict[Weight, Fraction] = {}
            for arg in op.inputs[: op.get_attr("N")]:
                part = Fraction(size(arg), size(tensor))
                for weight, share in self.sources(arg).items():
                    parts[weight] = parts.get(weight, Fraction(0)) + part * share
            return parts
        if op.type in ("Mul", "MulNoNan", "Select", "SelectV2"):
            # A factor or branch that is broadcast (a scale, a zero) says nothing about
            # where the zeros are; a mask may be a variable, but not a trained one.
            args = op.inputs[1:] if op.type.startswith("Select") else op.inputs
            full = [arg for arg in args if arg.shape == tensor.shape]
            made = [found for arg in full if (found := self.sources(arg))]
            trained = [found for found in made if any(w.trainable for w in found)]
            choice = trained or made
            if choice and all(found == choice[0] for found in choice):
                return choice[0]
        return {}


def multiply_adds(frame: Frame) -> Count:
    """Multiply-adds of one run of a graph.

    Returns:
      {a `Weight`, or `ACTIVATIONS` for products of computed tensors: multiply-adds}, and
      for each operation that cannot be counted {its type and name: 1}.
    """
    total: Count = Counter()
    for op in live(frame.graph):
        if op.type in PRODUCTS:
            total.update(_count_product(op, frame))
        elif op.type in FUNCTION_CALLS:
            total.update(multiply_adds(frame.enter(op.get_attr("f"), op.inputs)))
        elif op.type in LOOPS:
            total.update(_count_loop(op, frame))
        elif op.type in BRANCHES:
            total.update(_count_branches(op, frame))
        elif _OPAQUE.search(op.type) or _calls_functions(op):
            total[f"{op.type} {op.name}"] += 1
    return total


def live(graph: Any) -> Iterator[tf.Operation]:
    """The operations that the outputs of a graph depend on, in the graph's order.

    Keras's recurrent layers trace an unused step outside the loop.
    """
    todo = [tensor.op for tensor in graph.outputs if isinstance(tensor, tf.Tensor)]
    todo += graph.control_outputs
    seen = set()
    while todo:
        op = todo.pop()
        if op.name not in seen:
            seen.add(op.name)
            if op.type not in _SHAPE_ONLY:
                todo += [tensor.op for tensor in op.inputs]
            todo += op.control_inputs
    return (op for op in graph.get_operations() if op.name in seen)


def _count_product(op: tf.Operation, frame: Frame) -> Count:
    macs, operands = PRODUCTS[op.type](op)
    shares = next((s for i in operands if (s := frame.sources(op.inputs[i]))), {})
    count: Count = Counter({w: int(macs * share) for w, share in shares.items()})
    count[ACTIVATIONS] = macs - sum(count.values())
    return count


def _count_loop(op: tf.Operation, frame: Frame) -> Count:
    invariant = invariant_inputs(frame, op)
    check = multiply_adds(frame.enter(op.get_attr("cond"), invariant))
    once = check + multiply_adds(frame.enter(op.get_attr("body"), invariant))
    # A loop without products, such as a search, may be of any length.
    times = trips(op, frame) if once else 0
    return check + Counter({key: n * times for key, n in once.items()})


def invariant_inputs(frame: Frame, op: tf.Operation) -> list[tf.Tensor | None]:
    """The inputs of a loop that its body passes on unchanged; None for the others."""
    return [
        tensor if _is_invariant(frame, op, i) else None
        for i, tensor in enumerate(op.inputs)
    ]


def _is_invariant(frame: Frame, op: tf.Operation, index: int) -> bool:
    graph = frame.enter(op.get_attr("body")).graph
    output = graph.outputs[index]
    while output.op.type == "Identity":
        output = output.op.inputs[0]
    return output.name == graph.inputs[index].name


def trips(op: tf.Operation, frame: Frame) -> int:
    """The number of iterations of a loop, found by evaluating its loop counter."""
    condition = frame.enter(op.get_attr("cond"))
    body = frame.enter(op.get_attr("body"))
    state = [frame.constant(tensor) for tensor in op.inputs]
    for trip in range(_MAX_TRIPS):
        for inner in (condition, body):
            inner.constants = {
                placeholder.name: value
                for placeholder, value in zip(inner.graph.inputs, state, strict=True)
                if value is not None
            }
        proceed = condition.constant(condition.graph.outputs[0])
        if proceed is None:
            break
        if not proceed:
            return trip
        state = [
            body.constant(out) if out.dtype.is_integer or out.dtype.is_bool else None
            for out in body.graph.outputs
        ]
    raise ValueError(
        "Expected a loop whose length follows from the shape of the input, so that its "
        "products can be counted; give `input_spec` with the sequence length. "
        f"Received: {op.name}"
    )


def branches_of(op: tf.Operation) -> list[Any]:
    """The functions that a conditional may call, in the order of its condition."""
    if op.type in ("If", "StatelessIf"):
        return [op.get_attr("else_branch"), op.get_attr("then_branch")]
    return list(op.get_attr("branches"))


def _count_branches(op: tf.Operation, frame: Frame) -> Count:
    counts = [
        multiply_adds(frame.enter(branch, op.inputs[1:])) for branch in branches_of(op)
    ]
    if all(count == counts[0] for count in counts):
        return counts[0]
    chosen = frame.constant(op.inputs[0])
    if chosen is None:
        raise ValueError(
            "Expected a branch that follows from the shape of the input, or branches "
            f"with the same products. Received: {op.name}"
        )
    return counts[min(int(chosen), len(counts) - 1)]


def _calls_functions(op: tf.Operation) -> bool:
    return any(attr.type in ("func", "list(func)") for attr in op.op_def.attr)
