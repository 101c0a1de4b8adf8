"""The additions to a layer for a sparse weight: sets, counters and penalty."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.compat import raw_variable
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.kernel_rule import (
    OUTPUT_EMBEDDING,
    makes_output_embedding,
    why_not_kernel,
)
from topkast_tf.core.sets import masked
from topkast_tf.layers.product_rule import AuxiliaryVariable
from topkast_tf.layers.products import product_spec, why_without_product
from topkast_tf.methods.base import GRADIENT, MOMENTUM
from topkast_tf.variables import packing, steps
from topkast_tf.variables.components import components, local_index
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.scope_state import SparsityScope
from topkast_tf.variables.sparse_variable import make_sparse
from topkast_tf.variables.views import on_backward, sparse_view
from topkast_tf.variables.weight import SparseWeight


def weights_of(layer: Any) -> list[SparseWeight]:
    """The scope's weights in a layer itself, without its sublayers."""
    return list(vars(layer).get("_topkast_weights", ()))


def state_of(layer: Any) -> dict[str, Any]:
    """The state variables of a layer itself, by name.

    They include the state of its random numbers (dropout), which Keras does not save and
    without which a resumed run differs.
    """
    state = {
        name: variable
        for weight in weights_of(layer)
        for name, variable in weight.state_variables().items()
    }
    return {**state, **random_state(layer)}


def random_state(layer: Any) -> dict[str, Any]:
    """The state of a layer's random numbers, by name."""
    generators = enumerate(compat.seed_generators(layer))
    return {f"random_{i}": made.state for i, made in generators}


def without_state(layer: Any) -> dict[str, list[Any]]:
    """The attributes that list a layer's own variables, without its state."""
    state = {id(variable) for variable in state_of(layer).values()}
    return {
        name: [made for made in getattr(layer, name) if id(made) not in state]
        for name in compat.variable_lists(layer)
    }


@contextlib.contextmanager
def state_hidden(layer: Any) -> Iterator[None]:
    """Within it, the layer's own variables exclude its state."""
    shown = without_state(layer)
    everything = {name: list(getattr(layer, name)) for name in shown}
    for name, own in shown.items():
        getattr(layer, name)[:] = own
    try:
        yield
    finally:
        for name, own in everything.items():
            getattr(layer, name)[:] = own


def consider_weight(
    layer: Any,
    variable: Any,
    scope: SparsityScope,
    add_weight: Any,
    regularizer: Any = None,
    is_frozen: bool = False,
) -> None:
    """Sparsifies a weight that a layer has created, if the scope decides so.

    Args:
      layer: a layer constructed in the scope.
      variable: the weight.
      scope: the scope.
      add_weight: the layer's own, dense `add_weight`, for the state.
      regularizer: the `add_weight` argument for this weight, or None.
      is_frozen: whether only the layer's `trainable` keeps it from being trained.
    """
    if is_frozen:  # dense, unless it was frozen when it was sparse already
        is_trained = bool(scope.saved and scope.saved.left)
    else:
        is_trained = variable.trainable
    if not is_trained or not tf.as_dtype(variable.dtype).is_floating:
        return
    if scope.placement.include is None and len(variable.shape) < 2:
        return  # biases and scales are not reported
    name = variable.name.split("/")[-1].split(":")[0]
    path = getattr(variable, "path", variable.name).split(":")[0]
    library, cls = layer._topkast_library, layer._topkast_dense_class
    spec = product_spec(cls, library)
    if spec is not None and name != spec.kernel:
        spec = None
    refused = None
    if scope.method.requires_product_rule and spec is None:
        refused = why_without_product(cls, library)
    elif spec is not None and layer._topkast_rule is not None:
        product = spec.matrix(layer) or spec.convolution(layer)
        refused = layer._topkast_rule.why_dense(product)
    view = MatrixView(
        tuple(variable.shape),
        _output_axes(layer, variable),
        0 if spec is None else spec.spatial_axes(layer),
    )
    weight = scope.consider(
        variable,
        path,
        view,
        not_kernel=why_not_kernel(name, variable.shape, cls.__mro__),
        counts_when_used=name == OUTPUT_EMBEDDING
        and makes_output_embedding(cls.__mro__),
        within_keras=True,
        refused=refused,
        owner=layer,
    )
    if weight is not None:
        if scope.storage.is_packed:
            _check_can_be_packed(layer, variable, weight)
        weight.regularizer = regularizer
        weight.rule = layer._topkast_rule if spec is not None else None
        if spec is None:
            why = why_without_product(cls, library)
            weight.is_without_kernels(why, scope.kernels)
        if weight.rule is not None:
            weight.rule.check(weight)
        _add_state(layer, variable, name, weight, add_weight)


def _check_can_be_packed(layer: Any, variable: Any, weight: SparseWeight) -> None:
    expected = "Expected {} for storage='packed'. Received: {}"
    if layer._topkast_library.__name__ != "keras":
        raise ValueError(
            expected.format("a layer of Keras 3", f"{weight.path} of tf_keras")
        )
    if getattr(variable, "constraint", None) is not None:
        raise ValueError(
            expected.format(
                "a kernel without a constraint, which is one of whole weights,",
                f"{weight.path} with {variable.constraint!r}",
            )
        )
    if layer._topkast_rule is not None:
        raise ValueError(
            expected.format(
                "dense activations",
                f"{weight.path} within a scope of {layer._topkast_rule.name!r}",
            )
        )
    vars(variable)[packing.ENTRIES] = weight
    packing.install(layer._topkast_library)


def _add_state(
    layer: Any, variable: Any, name: str, weight: SparseWeight, add_weight: Any
) -> None:
    """Adds a weight's state as weights of the layer, saved and restored with it."""
    weight.attach(theta=variable, local_name=name)

    selected: list[tf.Tensor] = []  # counters created with the sets

    def first_sets(shape, dtype=None, **_):
        weight.take_weights()
        theta = components(weight.variable)[0]
        sets, counters = weight.initial_state(theta.read_value())
        if tf.executing_eagerly():  # a graph's tensor is valid only in that graph
            selected.append(counters)
        return tf.cast(sets, dtype or tf.uint8)

    def first_counters(shape, dtype=None, **_):
        theta = components(weight.variable)[0].read_value()
        make_sparse(weight)
        counters = selected.pop() if selected else weight.initial_state(theta)[1]
        return tf.cast(counters, dtype or tf.int64)

    # Keras may create variables now and their values later (it builds models
    # symbolically). It creates the values in the order of the variables, so code that
    # needs theta's value goes into an initializer.
    placement = _state_placement(layer)
    sets = add_weight(
        name=f"{name}_sets",
        shape=tuple(variable.shape),
        dtype="uint8",
        initializer=_unless_symbolic(variable, first_sets),
        trainable=False,
        **placement,
    )
    weight.attach(sets=sets)
    counters = add_weight(
        name=f"{name}_clock",
        shape=(len(Counter),),
        dtype="int64",
        initializer=_unless_symbolic(variable, first_counters),
        trainable=False,
        **placement,
    )
    weight.attach(counters=counters)
    wanted = dict(weight.rule.auxiliary_variables(weight)) if weight.rule else {}
    if MOMENTUM in weight.method.inputs:
        wanted[steps.AVERAGE] = AuxiliaryVariable(tuple(variable.shape), "float32")
    for auxiliary, (shape, dtype) in wanted.items():
        weight.auxiliary[auxiliary] = add_weight(
            name=f"{name}_{auxiliary}",
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            **placement,
        )
    for trained, made in weight.trained.items():
        weight.auxiliary[trained] = add_weight(
            name=f"{name}_{trained}",
            shape=made.shape,
            initializer=layer._topkast_library.initializers.Constant(made.initial),
            **({"dtype": made.dtype} if made.dtype else {}),
            **({} if made.trainable else {"trainable": False, **placement}),
        )
    for made, own in weight.state_variables().items():
        setattr(layer, made, own)
    # Now, and not once all layers are built, so that one theta is in memory at a time.
    weight.leave_to_files()
    if "_topkast_weights" not in vars(layer):
        object.__setattr__(layer, "_topkast_weights", [])
    layer._topkast_weights.append(weight)
    constraint = getattr(variable, "constraint", None)
    if constraint is not None and not weight.method.dense_updates:
        compat.set_constraint(variable, _on_backward_set(constraint, weight, layer))
    if weight.method.has_penalty:
        _add_penalty(layer, variable, weight)
    elif getattr(variable, "regularizer", None):
        variable.regularizer = regularizer_on(variable.regularizer, weight)


def _on_backward_set(constraint: Any, weight: SparseWeight, layer: Any) -> Any:
    """A constraint of the entries that are updated: C is zero to it.

    Only B takes its result. A norm over all of theta would shrink B a little more at each
    step, as C keeps its values. It remains an instance of the constraint's class.
    """
    base = layer._topkast_library.constraints.Constraint
    cls = type(constraint) if isinstance(constraint, base) else base

    class OnBackwardSet(cls):  # type: ignore[misc,valid-type]
        def __call__(self, value):
            if not weight.is_ready:  # Keras is building symbolically
                return constraint(value)
            sets = weight.replica(local_index(weight.variable)).sets.read_value()
            return constraint(masked(tf.convert_to_tensor(value), on_backward(sets)))

    made = object.__new__(OnBackwardSet)
    if cls is not base:
        vars(made).update(vars(constraint))
    return made


def _unless_symbolic(variable: Any, initializer: Any) -> Any:
    """The initializer, or zeros while Keras only infers the shape."""

    def initialize(shape, dtype=None, **kwargs):
        if raw_variable(variable) is None:
            return tf.zeros(shape, dtype)
        return initializer(shape, dtype, **kwargs)

    return initialize


def _state_placement(layer: Any) -> dict:
    if layer._topkast_library.__name__ == "keras":
        return {"autocast": False, "aggregation": "only_first_replica"}
    return {
        "synchronization": tf.VariableSynchronization.ON_READ,
        "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        "experimental_autocast": False,
    }


def _add_penalty(layer: Any, variable: Any, weight: SparseWeight) -> None:
    library = layer._topkast_library

    def floatx(value):
        # Like Keras's own losses, so that losses of layers of other dtypes can be added.
        return tf.cast(value, library.backend.floatx())

    if library.__name__ != "keras":
        layer.add_loss(lambda: floatx(weight.penalty()))
        return
    own = variable.regularizer

    # Older Keras 3 accepts only an instance of this class, not any callable.
    class Penalty(library.regularizers.Regularizer):
        ignores_its_argument = True

        def __call__(self, _):
            if not weight.is_ready:  # Keras is building symbolically
                return floatx(0.0)
            penalty = floatx(weight.penalty())
            return penalty if own is None else penalty + floatx(own(variable))

    variable.regularizer = weight.penalty_regularizer = Penalty()


def regularizer_on(regularizer: Any, weight: SparseWeight) -> Any:
    """The form in which a regularizer applies to a sparse weight.

    A method that uses the gradient outside B must see the network's gradient alone. So
    its regularizer is one of theta on A: C does not contribute, and the contribution of
    A is subtracted (`steps`; not from slots that follow the dense gradient, which have
    it on A as the source has). For other methods it is unchanged.

    Args:
      regularizer: a Keras 3 regularizer.
      weight: the weight.
    """
    method = weight.method
    if GRADIENT not in method.inputs and not method.dense_slots:
        return regularizer

    class OfAlpha(type(regularizer)):
        def __init__(self):
            vars(self).update(vars(regularizer))

        def __call__(self, _):
            if not weight.is_ready:  # Keras is building symbolically
                return tf.zeros([])
            replica = weight.replica(local_index(weight.variable))
            # Of theta, also with a power: `steps` subtracts the same.
            on_forward = sparse_view(replica.read_theta(), replica.sets.read_value())
            if GRADIENT in method.inputs:
                replica.decayed_by = regularizer
            return regularizer(on_forward)

    return OfAlpha()


def _output_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """The axes of a kernel that index outputs."""
    layers = layer._topkast_library.layers
    kind = {
        name: getattr(layers, name)
        for name in dir(layers)
        if name.startswith(("Conv", "Depthwise", "Separable", "EinsumDense"))
    }
    transposed = tuple(cls for name, cls in kind.items() if "Transpose" in name)
    if isinstance(layer, transposed):
        return (-2,)
    depthwise = tuple(cls for name, cls in kind.items() if name.startswith("Depth"))
    if isinstance(layer, depthwise) or "depthwise" in variable.name:
        return (-2, -1)
    if isinstance(layer, kind["EinsumDense"]):
        return _einsum_output_axes(layer.equation)
    return (-1,)


def _einsum_output_axes(equation: str) -> tuple[int, ...]:
    """The kernel axes that the input of an einsum does not have.

    >>> _einsum_output_axes("abc,cde->abde")
    (1, 2)
    """
    inputs, kernel = equation.replace(" ", "").split("->")[0].split(",")
    axes = tuple(i for i, letter in enumerate(kernel) if letter not in inputs)
    return axes or (len(kernel) - 1,)
