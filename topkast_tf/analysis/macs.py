"""Counted multiply-adds of any model, attributed to its weights.

The count is read from the graph of the model's inference call, traced and never run,
so it does not matter how the model is written.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from topkast_tf.analysis import graph_work
from topkast_tf.analysis.graph_macs import ACTIVATIONS, Frame, Weight, multiply_adds
from topkast_tf.compat import raw_variable
from topkast_tf.layers.counting import counting
from topkast_tf.variables.components import components


@dataclass(frozen=True)
class MacCount(Mapping[str, int]):
    """Multiply-adds per example of one forward pass: a mapping {weight path: count}.

    total = sum of the mapping's values + activations

    Args:
      per_weight: multiply-adds of the products with each weight.
      activations: multiply-adds of the products of computed tensors, such as
        attention scores, and of those that mix several weights inseparably.
      uncounted: multiplying operations that the count cannot see into; unless it is
        empty, every total is a lower bound.
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


class ExampleWork(NamedTuple):
    """What a forward pass does for one example beside its products.

    Attributes:
      operations: type of TensorFlow operation -> its FLOPs (`graph_work.ELEMENTWISE`).
      entries: weight path -> entries of the tensors that its products read (``"inputs"``)
        and make (``"outputs"``).
    """

    operations: Mapping[str, int]
    entries: Mapping[str, Mapping[str, int]]


def count_macs(model: Callable[..., Any], input_spec: Any = None) -> MacCount:
    """Dense multiply-adds per example of one forward pass, for each weight.

    The call is traced for inference with a batch of one, and nothing is run. A product
    is attributed to the weight from which one of its operands is made by operations that
    preserve zeros (casts, reshapes, masks, slices, concatenations); if both operands are,
    to the second. A loop counts once per iteration.

    Args:
      model: a Keras model or layer, or any callable on tensors.
      input_spec: the model's input: a shape, `tf.TensorSpec`, Keras input spec or
        tensor, or a list, tuple or dict of them. The first dimension is the batch:
        `None`, or a number by which the counts are then divided. By default the input
        that the model was built with.

    Returns:
      A `MacCount`, a mapping {weight path: multiply-adds}, in the order of the graph.

    Raises:
      ValueError: if the input is unknown, or if a shape, a loop's length or a branch
        does not follow from the input's shape.

    >>> import keras
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")], name="net"
    ... )
    >>> dict(count_macs(model))  # 6 * 6 positions, 3 * 3 * 3 taps, 4 filters
    {'net/conv/kernel': 3888}
    """
    return Trace(model, input_spec).count({})


class Trace:
    """The graph of a model's inference call, and the variables it may read."""

    def __init__(self, model: Any, input_spec: Any):
        spec = input_spec_of(model) if input_spec is None else input_spec
        spec, self.batch = with_batch(spec)
        is_layer = isinstance(model, keras.layers.Layer)
        parameters = inspect.signature(model.call if is_layer else model).parameters
        keywords = {"training": False} if "training" in parameters else {}
        # As in Keras's own `fit`, the call of a layer is not converted by AutoGraph.
        traced = tf.function(lambda x: model(x, **keywords), autograph=not is_layer)
        with counting():
            self.concrete = traced.get_concrete_function(spec)
        self.variables = [
            *getattr(model, "variables", ()),
            *self.concrete.graph.variables,
        ]

    def count(self, names: Mapping[int, str]) -> MacCount:
        """Counts the products; `names` maps ids of variable handles to paths."""
        products = multiply_adds(self._frame(names))
        count = {key: -(-n // self.batch) for key, n in products.items()}
        return MacCount(
            {key.path: n for key, n in count.items() if isinstance(key, Weight)},
            count.get(ACTIVATIONS, 0),
            tuple(sorted(key for key in count if isinstance(key, str) and key)),
        )

    def work(self, names: Mapping[int, str]) -> ExampleWork:
        """Counts the rest, likewise."""
        own = len(self.concrete.inputs) - len(self.concrete.captured_inputs)
        found = graph_work.work_of(self._frame(names), own)
        entries: dict[str, dict[str, int]] = {}
        operations = {}
        for key, n in found.items():
            each = -(-n // self.batch)
            if isinstance(key, tuple):
                kind, weight = key
                entries.setdefault(weight.path, {})[kind] = each
            else:
                operations[key] = each
        return ExampleWork(operations, entries)

    def _frame(self, names: Mapping[int, str]) -> Frame:
        weights = _weights(self.variables, names)
        frame = Frame(self.concrete.graph)
        captured = self.concrete.captured_inputs
        inputs = self.concrete.inputs[len(self.concrete.inputs) - len(captured) :]
        for placeholder, handle in zip(inputs, captured, strict=True):
            if id(handle) in weights:
                frame.weights[placeholder.name] = weights[id(handle)]
        return frame


def input_spec_of(model: Any) -> Any:
    """The input that a built Keras model was built with."""
    try:
        # A Sequential model holds its inputs only as a flat list.
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


def with_batch(spec: Any) -> tuple[Any, int]:
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


def _weights(variables: Any, names: Mapping[int, str]) -> dict[int, Weight]:
    """{id of a variable's handle: weight}, with unique paths."""
    found: dict[int, Weight] = {}
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
        found.update(dict.fromkeys(handles, Weight(path, parts[0].trainable)))
    return found
