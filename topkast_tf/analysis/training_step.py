"""A training step of a model as a graph, traced and never run."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.analysis.macs import input_spec_of, with_batch
from topkast_tf.compat import raw_variable
from topkast_tf.variables import hooks
from topkast_tf.variables.lookup import planned_weights


class TrainingStep:
    """The graph of a step: forward pass, gradients, and the optimizer's update.

    The loss is the one that the model was compiled with, if `target_spec` is given;
    otherwise the mean of the squares of its outputs. A model and an optimizer that are not
    built yet are built, as the first step would do.

    Attributes:
      graph: of the step.
      inputs: names of the tensors of the batch.
      forward_end: the operations before this place in the graph are the forward pass.
      backward_end: those from there to this place are the backward pass.
      gradients: the gradients of the trainable variables.
    """

    def __init__(self, model: Any, input_spec: Any, target_spec: Any = None):
        spec = input_spec_of(model) if input_spec is None else input_spec
        self._model = model
        self._spans: list[tuple[int, int, Any]] = []
        self.forward_end = self.backward_end = 0
        self.gradients: list[tf.Tensor] = []
        specs = [with_batch(spec)[0]]
        if target_spec is not None:
            specs.append(with_batch(target_spec)[0])
        hooks.install()
        traced = tf.function(self._step, autograph=False)
        hooks.around_call.append(self._within)
        try:
            self._concrete = traced.get_concrete_function(*specs)
        finally:
            hooks.around_call.remove(self._within)
        self.graph = self._concrete.graph
        count = len(self.graph.inputs) - len(self._concrete.captured_inputs)
        self.inputs = {tensor.name for tensor in self.graph.inputs[:count]}
        # Of nested calls the inner one comes later: it has ended, and was noted, first.
        self._spans.reverse()
        self._spans.sort(key=lambda span: (span[0], -span[1]))
        self._begins = [begin for begin, _, _ in self._spans]
        self._places = {op.name: i for i, op in enumerate(self.graph.get_operations())}

    def place(self, op: tf.Operation) -> int:
        """The place of an operation in the order in which the graph was made."""
        return self._places[op.name]

    def layer_of(self, place: int) -> Any:
        """The innermost layer whose call made the operation at a place, or None."""
        for i in range(bisect.bisect_right(self._begins, place) - 1, -1, -1):
            _, end, layer = self._spans[i]
            if place < end:
                return layer
        return None

    def _step(self, x: Any, *targets: Any) -> tf.Tensor:
        model, graph = self._model, tf.compat.v1.get_default_graph()
        self._tracing = graph
        optimizer: Any = getattr(model, "optimizer", None)
        with tf.GradientTape() as tape:
            try:
                outputs = model(x, training=True)
            except TypeError:  # a layer without such an argument
                outputs = model(x)
            # After the call, which builds a model that is not built yet.
            variables = [
                v for v in model.trainable_variables if raw_variable(v) is not None
            ]
            if optimizer is not None:
                with tf.init_scope():
                    compat.build_optimizer(optimizer, model.trainable_variables)
            loss = self._loss(x, outputs, *targets)
            if hasattr(optimizer, "scale_loss"):
                loss = optimizer.scale_loss(loss)
        self.forward_end = len(graph.get_operations())
        found = tape.gradient(loss, [raw_variable(v) for v in variables])
        self.gradients = [
            tf.convert_to_tensor(each) for each in found if each is not None
        ]
        self.backward_end = len(graph.get_operations())
        if optimizer is None:
            return loss, *self.gradients
        if hasattr(optimizer, "apply"):
            optimizer.apply(found, variables)
        else:
            optimizer.apply_gradients(zip(found, variables, strict=True))
        return loss

    def _loss(self, x: Any, outputs: Any, *targets: Any) -> tf.Tensor:
        if targets:
            return self._model.compute_loss(x=x, y=targets[0], y_pred=outputs)
        parts = [
            tf.reduce_mean(tf.square(tf.cast(each, tf.float32)))
            for each in tf.nest.flatten(outputs)
        ]
        parts += [tf.cast(each, tf.float32) for each in self._penalties()]
        return tf.add_n(parts)

    def _penalties(self) -> list[tf.Tensor]:
        """Those of the layers of a model; of a `tf.Module`, what its caller adds."""
        if hasattr(self._model, "losses"):
            return list(self._model.losses)
        weights = planned_weights(self._model)
        return [w.penalty() for w in weights if w.method.has_penalty]

    @contextlib.contextmanager
    def _within(self, layer: Any) -> Iterator[None]:
        """Notes which operations a layer's call has made; of other graphs, nothing."""
        graph = tf.compat.v1.get_default_graph()
        begin = len(graph.get_operations()) if graph is self._tracing else None
        yield
        if begin is not None:
            self._spans.append((begin, len(graph.get_operations()), layer))

    _tracing: Any = None
