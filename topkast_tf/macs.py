"""Counted multiply-adds of any model, attributed to its weights.

The count is read from the graph of the model's inference call, traced and never run,
so it does not matter how the model is written.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from topkast_tf.products import PRODUCTS, size
from topkast_tf.variables import components, raw_variable

_FUNCTION_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")


@dataclass(frozen=True)
class MacCount(Mapping[str, int]):
    """Multiply-adds per example of one forward pass: a mapping {weight path: count}.

    total = sum of the mapping's values + activations

    Args:
      per_weight: multiply-adds of the products with each weight.
      activations: multiply-adds of the products of computed tensors, such as
        attention scores, and of those that mix several weights beyond telling apart.
      uncounted: operations that multiply and that the count cannot see into; while
        it is not empty, every total is a lower bound.
    """

    per_weight: Mapping[str, int]
    activations: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All multiply-adds per example."""
        return sum(self.per_weight.values()) + self.activations

    def __getitem__(self, path: str) -> int:
        return self.per_weight[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.per_weight)

    def __len__(self) -> int:
        return len(self.per_weight)


def count_macs(model: Callable[..., Any], input_spec: Any = None) -> MacCount:
    """Dense multiply-adds per example of one forward pass, for each weight.

    The call is traced for inference with a batch of one, and nothing is run. A product
    goes to the weight that one of its operands is made from by operations that keep
    zeros zero (casts, reshapes, masks, slices, concatenations); of two such operands,
    to the second. A loop counts as often as it runs.

    Args:
      model: a Keras model or layer, or any callable on tensors.
      input_spec: what the model is called on: a shape, `tf.TensorSpec`, Keras input
        spec or tensor, or a list, tuple or dict of them. The first dimension is the
        batch: `None`, or a number that the counts are then divided by. By default
        what the model was built with.

    Returns:
      A `MacCount`, a mapping {weight path: multiply-adds}, in the order of the graph.

    Raises:
      ValueError: if the input is not known, or if a shape, a loop's length or a
        branch is not known from the input's shape.

    >>> import keras
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")], name="net"
    ... )
    >>> dict(count_macs(model))  # 6 * 6 positions, 3 * 3 * 3 taps, 4 filters
    {'net/conv/kernel': 3888}
    """
    return Trace(model, input_spec).count({})


# --- Tracing the model ----------------------------------------------------------------


class Trace:
    """The graph of a model's inference call, and the variables it may read."""

    def __init__(self, model: Any, input_spec: Any):
        spec = _input_spec(model) if input_spec is None else input_spec
        spec, self.batch = _with_batch(spec)
        is_layer = isinstance(model, keras.layers.Layer)
        parameters = inspect.signature(model.call if is_layer else model).parameters
        keywords = {"training": False} if "training" in parameters else {}
        # As in Keras's own `fit`, the call of a layer is not converted by AutoGraph.
        traced = tf.function(lambda x: model(x, **keywords), autograph=not is_layer)
        self.concrete = traced.get_concrete_function(spec)
        self.variables = [
            *getattr(model, "variables", ()),
            *self.concrete.graph.variables,
        ]

    def count(self, names: Mapping[int, str]) -> MacCount:
        """Counts it, with the paths of some variables by the id of their handle."""
        weights = _weights(self.variables, names)
        frame = _Frame(self.concrete.graph)
        captured = self.concrete.captured_inputs
        inputs = self.concrete.inputs[len(self.concrete.inputs) - len(captured) :]
        for placeholder, handle in zip(inputs, captured, strict=True):
            if id(handle) in weights:
                frame.weights[placeholder.name] = weights[id(handle)]
        count = {key: -(-n // self.batch) for key, n in _count(frame).items()}
        return MacCount(
            {key.path: n for key, n in count.items() if isinstance(key, _Weight)},
            count.get(_ACTIVATIONS, 0),
            tuple(sorted(key for key in count if isinstance(key, str) and key)),
        )


def _input_spec(model: Any) -> Any:
    """What a built Keras model was built to be called on."""
    try:
        # A Sequential model knows its inputs only by the flat list.
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    except (AttributeError, ValueError):
        pass
    if isinstance(model, keras.layers.Layer) and model.built:
        shape = (model.get_build_config() or {}).get("input_shape")
        if shape is not None:
            return shape
    raise ValueError(
        "Expected a Keras model that was built on one input, or an `input_spec` such "
        "as (None, 224, 224, 3). Received: "
        f"model={getattr(model, 'name', model)!r}, input_spec=None"
    )


def _is_shape(spec: Any) -> bool:
    return isinstance(spec, tf.TensorShape) or (
        isinstance(spec, tuple | list)
        and all(dim is None or isinstance(dim, int) for dim in spec)
    )


def _with_batch(spec: Any) -> tuple[Any, int]:
    """The structure of `tf.TensorSpec` with the batch filled in, and the batch."""
    leaves: list[tuple[list[int | None], str]] = []

    def collect(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: collect(value) for key, value in part.items()}
        if isinstance(part, tuple | list) and not _is_shape(part):
            parts = [collect(value) for value in part]
            return tuple(parts) if isinstance(part, tuple) else parts
        shape = part if _is_shape(part) else getattr(part, "shape", None)
        if shape is None:
            raise ValueError(
                "Expected an `input_spec` made of shapes, specs or tensors. "
                f"Received: {part!r}"
            )
        dtype = keras.backend.standardize_dtype(getattr(part, "dtype", None))
        leaves.append((list(shape), dtype))
        return len(leaves) - 1

    structure = collect(spec)
    given = {shape[0] for shape, _ in leaves if shape and shape[0] is not None}
    if len(given) > 1 or any(None in shape[1:] for shape, _ in leaves):
        raise ValueError(
            "Expected an `input_spec` with one batch size, or None, and every other "
            f"dimension a number. Received: {[tuple(shape) for shape, _ in leaves]}"
        )
    batch = given.pop() if given else 1
    specs = [tf.TensorSpec([batch, *s[1:]] if s else s, d) for s, d in leaves]
    return tf.nest.map_structure(lambda i: specs[i], structure), batch


@dataclass(frozen=True)
class _Weight:
    path: str
    trainable: bool


def _weights(variables: Any, names: Mapping[int, str]) -> dict[int, _Weight]:
    """{id of a variable's handle: weight}, with paths that differ."""
    found: dict[int, _Weight] = {}
    times: Counter[str] = Counter()
    for variable in variables:
        raw = raw_variable(variable)
        if raw is None:  # not built, so not read either
            continue
        # A distributed variable has one component, and one handle, per device.
        parts = components(raw)
        handles = [id(part.handle) for part in parts]
        if handles[0] in found:
            continue
        default = getattr(variable, "path", variable.name.removesuffix(":0"))
        path = next((names[h] for h in handles if h in names), default)
        times[path] += 1
        path = path if times[path] == 1 else f"{path}#{times[path]}"
        found.update(dict.fromkeys(handles, _Weight(path, parts[0].trainable)))
    return found


# --- Walking its graph ----------------------------------------------------------------

# Keys of a count: a weight, this, or the name of an operation that is not counted.
_ACTIVATIONS = ""
_Count = Counter[Any]

_MAX_TRIPS = 1_000_000

# Multiplying operations that are in no table below.
_OPAQUE = re.compile("MatMul|Conv(?!ert)|Einsum|XlaDot|LSTM|GRU|RNN|Attention|PyFunc")

# Operations that read no more than the shape of their input.
_SHAPE_ONLY = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}

# Operations whose output is zero wherever the named input is: a sparse weight is still
# the same sparse weight after them. Sums are not among them.
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


class _Frame:
    """A graph during one call of it, and where the inputs of the call come from."""

    def __init__(self, graph: Any, args: Any = (), caller: _Frame | None = None):
        self.graph = graph
        self.caller = caller
        # Placeholder name -> tensor of the caller.
        self.args = {
            placeholder.name: arg
            for placeholder, arg in zip(graph.inputs, args, strict=False)
            if arg is not None
        }
        self.weights: dict[str, _Weight] = {}
        self.constants: dict[str, Any] = {}
        self.shares: dict[str, dict[_Weight, Fraction]] = {}

    def enter(self, function: Any, args: Any = ()) -> _Frame:
        """The frame of a function that an operation of this graph calls."""
        frame: _Frame | None = self
        while frame is not None:
            # The only private name used: there is no public way from the name of a
            # graph function to its graph.
            found = frame.graph._get_function(function.name)
            if found is not None:
                return _Frame(found.graph, args, self)
            frame = frame.caller
        raise ValueError(f"Expected a function of the graph. Received: {function.name}")

    def origin(self, tensor: tf.Tensor) -> tuple[tf.Tensor, _Frame]:
        """The tensor that was passed in where `tensor` is an input of a call."""
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

    def sources(self, tensor: tf.Tensor) -> dict[_Weight, Fraction]:
        """The weights that a tensor is made from, with the part each one fills."""
        tensor, frame = self.origin(tensor)
        if tensor.name not in frame.shares:
            frame.shares[tensor.name] = frame._sources(tensor)
        return frame.shares[tensor.name]

    def _sources(self, tensor: tf.Tensor) -> dict[_Weight, Fraction]:
        op = tensor.op
        if op.type == "ReadVariableOp":
            handle, frame = self.origin(op.inputs[0])
            weight = frame.weights.get(handle.name)
            return {weight: Fraction(1)} if weight else {}
        if op.type in _CARRIES:
            return self.sources(op.inputs[_CARRIES[op.type]])
        if op.type == "IdentityN":
            return self.sources(op.inputs[tensor.value_index])
        if op.type in _FUNCTION_CALLS:
            inner = self.enter(op.get_attr("f"), op.inputs)
            return inner.sources(inner.graph.outputs[tensor.value_index])
        if op.type in _LOOPS and _is_invariant(self, op, tensor.value_index):
            return self.sources(op.inputs[tensor.value_index])
        if op.type in ("ConcatV2", "Pack"):
            parts: dict[_Weight, Fraction] = {}
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


def _count(frame: _Frame) -> _Count:
    """Multiply-adds of one run of a graph."""
    total: _Count = Counter()
    for op in _live(frame.graph):
        if op.type in PRODUCTS:
            total.update(_count_product(op, frame))
        elif op.type in _FUNCTION_CALLS:
            total.update(_count(frame.enter(op.get_attr("f"), op.inputs)))
        elif op.type in _LOOPS:
            total.update(_count_loop(op, frame))
        elif op.type in _BRANCHES:
            total.update(_count_branches(op, frame))
        elif _OPAQUE.search(op.type) or _calls_functions(op):
            total[f"{op.type} {op.name}"] += 1
    return total


def _live(graph: Any) -> Iterator[tf.Operation]:
    """The operations that the outputs of a graph depend on, in the graph's order.

    Keras's recurrent layers trace a step outside the loop that nobody uses.
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


def _count_product(op: tf.Operation, frame: _Frame) -> _Count:
    macs, operands = PRODUCTS[op.type](op)
    shares = next((s for i in operands if (s := frame.sources(op.inputs[i]))), {})
    count: _Count = Counter({w: int(macs * share) for w, share in shares.items()})
    count[_ACTIVATIONS] = macs - sum(count.values())
    return count


def _count_loop(op: tf.Operation, frame: _Frame) -> _Count:
    invariant = [
        tensor if _is_invariant(frame, op, i) else None
        for i, tensor in enumerate(op.inputs)
    ]
    check = _count(frame.enter(op.get_attr("cond"), invariant))
    once = check + _count(frame.enter(op.get_attr("body"), invariant))
    # A loop without products, such as a search, may be of any length.
    trips = _trips(op, frame) if once else 0
    return check + Counter({key: n * trips for key, n in once.items()})


def _is_invariant(frame: _Frame, op: tf.Operation, index: int) -> bool:
    graph = frame.enter(op.get_attr("body")).graph
    output = graph.outputs[index]
    while output.op.type == "Identity":
        output = output.op.inputs[0]
    return output.name == graph.inputs[index].name


def _trips(op: tf.Operation, frame: _Frame) -> int:
    """How often a loop runs, by running the part of it that counts."""
    condition = frame.enter(op.get_attr("cond"))
    body = frame.enter(op.get_attr("body"))
    state = [frame.constant(tensor) for tensor in op.inputs]
    for trips in range(_MAX_TRIPS):
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
            return trips
        state = [
            body.constant(out) if out.dtype.is_integer or out.dtype.is_bool else None
            for out in body.graph.outputs
        ]
    raise ValueError(
        "Expected a loop whose length follows from the shape of the input, so that its "
        "products can be counted; give `input_spec` with the sequence length. "
        f"Received: {op.name}"
    )


def _count_branches(op: tf.Operation, frame: _Frame) -> _Count:
    if op.type in ("If", "StatelessIf"):
        branches = [op.get_attr("else_branch"), op.get_attr("then_branch")]
    else:
        branches = op.get_attr("branches")
    counts = [_count(frame.enter(branch, op.inputs[1:])) for branch in branches]
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
