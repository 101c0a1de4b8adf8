"""The `call` of Keras layers whose product or activation a rule computes."""

import functools
import inspect
from typing import Any

import tensorflow as tf

from topkast_tf.compat import raw_variable
from topkast_tf.core.kernel_rule import OUTPUT_EMBEDDING
from topkast_tf.layers import native
from topkast_tf.layers.products import ProductSpec, activation_of, finish
from topkast_tf.layers.weights import weights_of


def by_rule(cls: type, spec: ProductSpec) -> Any:
    """The `call` of a layer class whose product may be computed by a rule."""
    dense_call = _accepting(cls.call)  # type: ignore[attr-defined]

    @functools.wraps(cls.call)  # type: ignore[attr-defined]
    def call(self, inputs, *args, **kwargs):
        inputs = _tensor_of(inputs)
        found = [w for w in weights_of(self) if w.local_name == spec.kernel]
        weight = found[0] if found else None
        rule = self._topkast_rule if weight is None else weight.rule
        tensor = isinstance(inputs, tf.Tensor | tf.SparseTensor)
        building = not tensor or (weight and not weight.is_ready)
        if building:  # Keras builds symbolically
            return dense_call(self, inputs, *args, **kwargs)
        if rule is None:
            outputs = weight and native.product(self, spec, inputs, weight)
            if outputs is None:
                return dense_call(self, inputs, *args, **kwargs)
            return finish(self, outputs, self.activation)
        if weight:
            weight.prepare()
        kernel, inputs = getattr(self, spec.kernel), _dense(inputs)
        if weight and not weight.exempt:
            product = native.product_for_rule(self, spec, inputs, weight)
            outputs = rule.outputs(
                product, inputs, kernel, weight, lambda made: finish(self, made, None)
            )
        elif rule.replaces_activations and self.activation:
            # Left dense, but its activation takes as much memory as any other.
            outputs = spec.product(self)(inputs, tf.convert_to_tensor(kernel))
            outputs = finish(self, outputs, None)
        else:
            return dense_call(self, inputs, *args, **kwargs)
        if not self.activation:
            return outputs
        return rule.activation(self.activation)(outputs)

    return call


def _tensor_of(inputs: Any) -> Any:
    """The value of a variable, such as a learned query; other inputs unchanged."""
    if hasattr(inputs, "__dict__") and not isinstance(inputs, tf.Tensor):
        if isinstance(raw_variable(inputs), tf.Variable):
            return tf.convert_to_tensor(inputs)
    return inputs


def _dense(inputs: Any) -> tf.Tensor:
    """A sparse tensor converted to dense: rules rank all entries of their operands."""
    if not isinstance(inputs, tf.SparseTensor):
        return inputs
    return tf.ensure_shape(tf.sparse.to_dense(inputs), inputs.shape)


def _accepting(call: Any) -> Any:
    """A `call` that ignores unknown keywords.

    tf_keras does not unwrap functions, and passes `training` to every function that
    takes any keyword.
    """
    known = set(inspect.signature(call).parameters)

    def accepting(self, inputs, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        return call(self, inputs, *args, **kwargs)

    return accepting


def of_output_embedding(cls: type) -> Any:
    """The `__call__` of an embedding that is an output projection if called in reverse.

    Not its `call`, which Keras does not run when it only infers the output's shape.
    """

    @functools.wraps(cls.__call__)  # type: ignore[operator]
    def called(self, inputs, *args, **kwargs):
        outputs = cls.__call__(self, inputs, *args, **kwargs)  # type: ignore[operator]
        if kwargs.get("reverse", args[:1] == (True,)):
            for weight in weights_of(self):
                if weight.local_name == OUTPUT_EMBEDDING:
                    self._topkast_scope.note_use(weight)
        return outputs

    return called


def of_activation(cls: type, library: Any) -> Any:
    """The `call` of an activation layer whose function a rule may replace."""
    dense_call = _accepting(cls.call)  # type: ignore[attr-defined]

    @functools.wraps(cls.call)  # type: ignore[attr-defined]
    def call(self, inputs, *args, **kwargs):
        inputs = _tensor_of(inputs)
        function = activation_of(self, library)
        rule = self._topkast_rule
        if rule is None or function is None or not isinstance(inputs, tf.Tensor):
            return dense_call(self, inputs, *args, **kwargs)
        return rule.activation(function)(inputs)

    return call
