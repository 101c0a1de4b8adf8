"""The entry point for variables created outside Keras layers: a variable creator.

`tf.Module`s in custom loops use it. A variable creator is TensorFlow 2's custom getter:
it sees each variable at its creation.
"""

import contextlib
import sys
from typing import Any

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.kernel_rule import why_not_kernel
from topkast_tf.variables.components import components
from topkast_tf.variables.scope_state import SparsityScope
from topkast_tf.variables.sparse_variable import make_sparse


def creating_sparse(scope: SparsityScope) -> contextlib.AbstractContextManager:
    """A context in which variables that are created outside Keras join a scope."""
    return tf.variable_creator_scope(_creator(scope))


def _creator(scope: SparsityScope) -> Any:
    def create(next_creator, **kwargs):
        variable = next_creator(**kwargs)
        if not _made_by_keras():
            _consider(variable, scope)
        return variable

    return create


def _made_by_keras() -> bool:
    """Whether a Keras library requests the variable; its layers join by themselves.

    Only the call stack shows this: a creator is not told its caller.
    """
    frame = sys._getframe(1)
    while frame is not None:
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if package in ("keras", "tf_keras"):
            return True
        if package not in ("tensorflow", "topkast_tf", "contextlib"):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _consider(variable: Any, scope: SparsityScope) -> None:
    is_weight = variable.trainable and variable.dtype.is_floating
    if not is_weight or (scope.placement.include is None and variable.shape.rank < 2):
        return
    name = variable.name.split(":")[0]
    weight = scope.consider(
        variable,
        name,
        MatrixView(tuple(variable.shape)),
        not_kernel=why_not_kernel(name, variable.shape),
        within_keras=False,
        refused=(
            "its product is not computed by a layer"
            if scope.method.requires_product_rule
            else None
        ),
    )
    if weight is None:
        return
    weight.is_without_kernels("its product is not computed by a layer", scope.kernels)
    if not tf.executing_eagerly():
        raise ValueError(
            "Expected a variable to be made eagerly, before the `tf.function` that uses "
            "it, or in TensorFlow 1 style by `topkast_getter`. Received: "
            f"{name}, which is being created in a graph"
        )
    if scope.storage.is_packed:
        raise ValueError(
            "Expected a Keras layer, which can train the entries of B alone, for "
            f"storage='packed'. Received: the variable {name}"
        )
    if weight.trained:
        raise ValueError(
            f"Expected a Keras layer, which can hold what {scope.method.name!r} trains "
            f"next to a weight ({', '.join(weight.trained)}). Received: the variable {name}"
        )
    weight.attach(theta=variable)
    weight.take_weights()
    theta = components(variable)[0].read_value()
    state = {
        "trainable": False,
        "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
    }
    sets, counters = weight.initial_state(theta)
    weight.attach(
        sets=tf.Variable(sets, name=f"{name}_sets", **state),
        counters=tf.Variable(counters, name=f"{name}_clock", **state),
    )
    make_sparse(weight)
