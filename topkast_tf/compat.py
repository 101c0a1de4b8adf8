"""The private names of Keras and TensorFlow that this library uses, in one place.

None of these has a public equivalent. Each has a test (`tests/test_compat.py`) that it
exists in the installed versions and behaves as assumed here: if a new version moves one,
the test fails and names it.

In addition, sparse classes override `_trackable_children`, `_lookup_dependency` and
`_restore_from_tensors`, by which TensorFlow finds the contents of a checkpoint, and
`_handle`, through which its eager fast path reads a variable; and
`topkast_tf.analysis.graph_macs` calls `_get_function` of a graph.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.ops import control_flow_util
from tensorflow.python.saved_model import save_context

try:  # only called by multi-worker strategies
    from tensorflow.python.ops import collective_ops
except ImportError:
    collective_ops = None


# Layers.


def layers_within(layer: Any) -> list[Any]:
    """A layer and all its sublayers, depth first; empty if it is not a layer."""
    if not hasattr(layer, "_flatten_layers"):
        return []
    return list(layer._flatten_layers(include_self=True, recursive=True))


def seed_generators(layer: Any) -> list[Any]:
    """The seed generators of a layer; tf_keras has none."""
    return list(getattr(layer, "_seed_generators", ()))


def variable_lists(layer: Any) -> tuple[str, str]:
    """The attributes that list a layer's own trainable and non-trainable variables."""
    if hasattr(layer, "_non_trainable_variables"):
        return "_trainable_variables", "_non_trainable_variables"
    return "_trainable_weights", "_non_trainable_weights"  # tf_keras


def causal_padding(layer: Any, *inputs: Any) -> Any:
    """The input padding of a causal convolution; tf_keras requires the inputs."""
    return layer._compute_causal_padding(*inputs)


def grouped_convolution(layer: Any) -> Any:
    """The product of a grouped tf_keras convolution, which a CPU runs only compiled."""
    return layer._jit_compiled_convolution_op


def compile_arguments(model: Any) -> dict | None:
    """The arguments of `compile`, or None."""
    return getattr(getattr(model, "_compile_config", None), "config", None)


def replace_kernel(layer: Any, make: Callable[[], Any]) -> None:
    """Replaces the kernel of a built Keras 3 layer, as its quantization does.

    Args:
      layer: a Dense, EinsumDense or convolution.
      make: adds other weights to the layer, and returns the one that is its kernel then.
    """
    layer._tracker.unlock()
    layer._untrack_variable(layer._kernel)
    layer._kernel = make()
    layer._tracker.lock()


def function_of(model: Any) -> Any:
    """The graph of calls of a built Keras 3 Functional or Sequential model, or None."""
    sequential = getattr(model, "_functional", None)
    function = model if sequential is None else sequential
    return function if hasattr(function, "_nodes_by_depth") else None


def nodes_of(function: Any) -> list[Any]:
    """The calls in such a graph, without its inputs, in an order to compute them in."""
    by_depth = sorted(function._nodes_by_depth.items(), reverse=True)
    return [node for _, nodes in by_depth for node in nodes if not node.is_input]


def is_operation(layer: Any) -> bool:
    """Whether the operation of a call is one of `keras.ops`, such as `Add`: no layer."""
    return type(layer).__module__.startswith("keras.src.ops.")


def export(model: Any, folder: str) -> None:
    """Writes a SavedModel for inference; Keras 3.5 has no `verbose`, and prints."""
    quiet = {"verbose": False}
    knows = quiet.keys() <= inspect.signature(model.export).parameters.keys()
    model.export(folder, **(quiet if knows else {}))


def is_saving_legacy_file() -> bool:
    """Whether Keras 3 is writing or reading its old `.h5` format."""
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        return False
    return bool(global_state.get_global_attribute("use_legacy_config", False))


# Variables.


def raw_variable(variable: Any) -> Any:
    """The `tf.Variable` of a Keras variable; a `tf.Variable` is returned as it is.

    `keras.Variable.value` is also the `tf.Variable`, but inside a mixed-precision scope it
    is a cast copy. None if Keras has not created it yet.
    """
    for wrapped in ("_value", "_variable"):  # Keras 3; tf_keras in mixed precision
        # By `vars`: a distributed variable forwards every attribute it does not have.
        variable = (
            vars(variable).get(wrapped, variable) if variable is not None else None
        )
    return variable


# Optimizers.


def set_constraint(variable: Any, constraint: Any) -> None:
    """Gives a variable another constraint; a `tf.Variable` takes one only when created."""
    if isinstance(variable, tf.Variable):
        for copy in getattr(variable, "values", (variable,)):
            copy._constraint = constraint
    else:
        variable.constraint = constraint


def build_optimizer(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds an optimizer's variables, as its next call would do anyway."""
    if hasattr(optimizer, "built"):  # Keras 3
        if not optimizer.built:
            optimizer.build(list(variables))
        return
    with tf.init_scope():  # as tf_keras does itself, each time
        optimizer.build(list(variables))


def innermost_optimizer(optimizer: Any) -> Any:
    """The optimizer that others wrap, such as one that scales the loss; or it itself."""
    while inner := getattr(optimizer, "inner_optimizer", None):
        optimizer = inner
    return optimizer


def index_of(optimizer: Any, variable: Any) -> int:
    """The index of a variable in the slot lists of a built optimizer."""
    if hasattr(optimizer, "_get_variable_index"):
        return optimizer._get_variable_index(variable)
    return optimizer._index_dict[optimizer._var_key(variable)]


def variable_count(optimizer: Any) -> int:
    """The number of variables that a built optimizer updates."""
    if hasattr(optimizer, "_get_variable_index"):
        return len(optimizer._trainable_variables)
    return len(optimizer._index_dict)


def trainable_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built with."""
    return list(getattr(optimizer, TRAINABLE_VARIABLES, None) or ())


ALL_VARIABLES, TRAINABLE_VARIABLES = "_variables", "_trainable_variables"
"""Attributes of an optimizer: its own variables, and those that it updates."""
AVERAGES = "_model_variables_moving_average"
"""That of its averages of those that it updates."""
NO_SLOTS = (ALL_VARIABLES, TRAINABLE_VARIABLES, "_accumulated_gradients", AVERAGES)
"""Optimizer lists with one variable per weight that are not slots."""


def momentums(optimizer: Any) -> list[Any]:
    """An optimizer's momentum of each variable; empty if it has none."""
    for name in ("momentums", "_momentums"):
        if found := getattr(optimizer, name, None):
            return list(found)
    return []


def calls(optimizer: Any) -> Any:
    """The number of calls of a Keras 3 optimizer; `iterations` counts updates."""
    return optimizer._iterations


def accumulated_gradient(optimizer: Any, variable: Any) -> Any:
    """The variable that accumulates a variable's gradients in an optimizer, or None."""
    sums = getattr(optimizer, "_accumulated_gradients", None)
    return sums[index_of(optimizer, variable)] if sums else None


def moving_average(optimizer: Any, variable: Any) -> Any:
    """The optimizer's average of a variable (`use_ema`), or None."""
    averages = getattr(optimizer, AVERAGES, None)
    return averages[index_of(optimizer, variable)] if averages else None


def clear_accumulated_gradients(optimizer: Any) -> None:
    """Resets the accumulated gradients to zero."""
    optimizer._backend_reset_gradient_accumulators()


def uses_weight_decay(optimizer: Any, variable: Any) -> bool:
    """Whether an optimizer with weight decay applies it to this variable."""
    uses = getattr(optimizer, "_use_weight_decay", None)
    return uses is None or bool(uses(variable))


def sums_over_replicas(optimizer: Any) -> bool:
    """Whether an optimizer sums gradients over replicas by the known method."""
    return callable(getattr(optimizer, "_all_reduce_sum_gradients", None))


def take_gradients_as_they_are(optimizer: Any) -> None:
    """Disables an optimizer's own sum over replicas, permanently."""
    optimizer._all_reduce_sum_gradients = list


# Strategies and graphs.


def is_handed_over() -> bool:
    """Whether a strategy is running an update, of an optimizer or another caller."""
    return distribute_lib.get_update_replica_id() is not None


def merges_calls(strategy: Any) -> bool:
    """Whether replicas delegate their updates to one thread."""
    return bool(strategy.extended._use_merge_call())


def function_graph(graph: tf.Graph, name: str) -> tf.Graph | None:
    """The graph of a function that a graph knows by name, or None."""
    found = graph._get_function(name)
    return None if found is None else found.graph


def is_compiled(graph: tf.Graph) -> bool:
    """Whether XLA will compile a graph that is being traced."""
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def is_given_statelessly(variable: Any) -> bool:
    """Whether a `keras.StatelessScope` gives the value of a Keras variable.

    `keras.Variable.value` is then a tensor, but in mixed precision it always is.
    """
    import keras  # those who use tf_keras alone do not need it

    if not isinstance(variable, keras.Variable):
        return False
    with keras.StatelessScope(initialize_variables=False) as inner:
        active = inner.original_scope
    return active is not None and active.get_current_value(variable) is not None


def is_stateless() -> bool:
    """Whether a `keras.StatelessScope` is active, in which no variable is created."""
    import keras

    with keras.StatelessScope(initialize_variables=False) as inner:
        return inner.original_scope is not None


def updated(variable: tf.Variable, operation: Any) -> Any:
    """What `assign` returns: a variable whose reads follow the operation that updates it.

    Args:
      variable: a `tf.Variable`, not a distributed one.
      operation: the operation; None if it has run eagerly.
    """
    return variable._lazy_read(operation)


def has_accelerator() -> bool:
    """Whether TensorFlow sees a GPU or TPU."""
    return any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


def is_saving_graphs() -> bool:
    """Whether TensorFlow is writing a SavedModel, which traces functions."""
    return bool(save_context.in_save_context())
