"""The sparse weights of a model."""

from typing import Any

import tensorflow as tf

from topkast_tf.compat import layers_within, raw_variable
from topkast_tf.variables.components import components
from topkast_tf.variables.weight import SparseWeight


def sparse_weights(model: Any) -> list[SparseWeight]:
    """The sparsified weights of a model, in the order of its weights.

    Args:
      model: a Keras model or layer, a `tf.Module`, or an iterable of variables.

    Returns:
      A list of `SparseWeight`, each with `path`, `shape`, `dense()` (theta),
      `effective()` (alpha), `forward_mask()` (A), `backward_mask()` (B), and the achieved
      `forward_sparsity` and `backward_sparsity`.

    >>> import keras
    >>> from topkast_tf import sparse_weights, topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.25):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [weight.forward_sparsity for weight in sparse_weights(model)]
    [0.5]
    """
    return [weight for weight in planned_weights(model) if not weight.exempt]


def planned_weights(model: Any) -> list[SparseWeight]:
    """As `sparse_weights`, plus weights with sets that keep all (``exempt="last"``)."""
    found = {}
    for variable in [*variables_of(model), *untracked_variables(model)]:
        raw = raw_variable(variable)
        if raw is None:
            continue
        replica = getattr(components(raw)[0], "_topkast", None)
        if replica is not None:
            found[id(replica.weight)] = replica.weight
    return list(found.values())


def untracked_variables(model: Any) -> list[tf.Variable]:
    """The `tf.Variable`s that are attributes of Keras layers.

    Keras 3 neither trains nor saves them, but a scope makes them sparse.
    """
    return [
        value
        for layer in layers_within(model)
        for value in vars(layer).values()
        if isinstance(value, tf.Variable)
    ]


def variables_of(model: Any) -> list[Any]:
    """The variables of a model, a layer, a `tf.Module` or an iterable."""
    for attribute in ("weights", "variables"):
        if hasattr(model, attribute):
            made = getattr(model, attribute)
            # In tf_keras they include vocabularies, which are not variables.
            return [each for each in made if hasattr(each, "trainable")]
    try:
        return list(model)
    except TypeError:
        raise TypeError(
            "Expected a model, a layer, a `tf.Module` or an iterable of variables. "
            f"Received: {model!r}"
        ) from None


def some_sparse_weights(model: Any) -> list[SparseWeight]:
    """As `sparse_weights`, but raises a ValueError if nothing in the model is sparse."""
    weights = sparse_weights(model)
    if not weights:
        raise ValueError(
            "Expected a model that was built in a sparsity scope. Received: "
            f"{model!r}, in which nothing is sparse"
        )
    return weights
