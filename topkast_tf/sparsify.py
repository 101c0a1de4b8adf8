"""Conversion of a dense model to a sparse one, with its weights."""

import contextlib
from typing import Any

from absl import logging

from topkast_tf import compat
from topkast_tf.layers.remaking import copy_values, made_again
from topkast_tf.layers.structure import library_of
from topkast_tf.scope import topkast_scope
from topkast_tf.variables.lookup import planned_weights


def sparsify(
    model: Any,
    fwd: float | contextlib.AbstractContextManager,
    bwd: float | None = None,
    **arguments: Any,
) -> Any:
    """A sparse model with the weights of a dense one, trained or not.

    ``theta = kernel``; the sets are the method's initial selection from it, at step 0, and
    ``alpha = theta on A, 0 elsewhere``, so that the outputs are those of the dense model
    after one-shot pruning. `fit` continues from there.

    The layers are rebuilt from the model's configuration, in the scope; the given model
    is not changed. Its compile arguments are kept, except for the optimizer's slots: the
    new optimizer has the same configuration and the current learning rate, and begins at
    its first step. Frozen layers (``trainable=False``) stay dense.

    Args:
      model: a built Keras 3 or tf_keras model or layer without sparse weights. A
        subclassed one must define `get_config`, as for saving by Keras.
      fwd: forward sparsity of Top-KAST, in [0, 1); or an unopened scope of any method,
        such as ``swat_scope(0.9)``.
      bwd: backward sparsity of Top-KAST, in [0, fwd].
      **arguments: other arguments of `topkast_scope`, such as ``refresh_every=100``.

    Returns:
      The sparse model.

    Raises:
      TypeError: for anything but a Keras model or layer.
      ValueError: for a model that is not built, is sparse already, or cannot be rebuilt
        from its configuration; and as raised by the scope.

    >>> import keras
    >>> from topkast_tf import sparse_weights, sparsify
    >>> dense = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model = sparsify(dense, 0.9, 0.8, refresh_every=10)
    >>> [kernel] = sparse_weights(model)
    >>> bool((kernel.dense() == dense.layers[0].kernel.numpy()).all())
    True
    >>> int(kernel.forward_mask().sum())
    10
    """
    if library_of(model) is None:
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r}")
    if planned_weights(model):
        raise ValueError(
            "Expected a dense model; `strip` makes one from a sparse model. "
            f"Received: {model!r}, which has sparse weights"
        )
    if hasattr(fwd, "__enter__"):
        if bwd is not None or arguments:
            raise ValueError(
                "Expected no other arguments with a scope, which has its own. "
                f"Received: bwd={bwd!r}, {arguments}"
            )
        scope = fwd
    else:
        scope = topkast_scope(fwd, bwd, **arguments)  # type: ignore[arg-type]
    with scope:
        sparse = made_again(model)
    copy_values(model, sparse)
    for weight in planned_weights(sparse):
        weight.take_weights()
    _compile_like(model, sparse)
    return sparse


def _compile_like(model: Any, made: Any) -> None:
    """Compiles a second model like the first one, with its own optimizer.

    Not by the serialised configuration, which requires losses and metrics that are
    registered and contain no lambda.
    """
    given = compat.compile_arguments(model)
    if given is None or not getattr(model, "optimizer", None):
        return
    library = library_of(model)

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(copied, value))
        has_state = isinstance(
            value, library.metrics.Metric | library.optimizers.Optimizer
        )
        return type(value).from_config(value.get_config()) if has_state else value

    try:
        made.compile(**copied({**given, "optimizer": model.optimizer}))
    except (TypeError, ValueError) as error:
        logging.warning(
            "%s is not compiled, as its optimizer or metrics cannot be rebuilt from "
            "their configurations: %s",
            made.name,
            error,
        )
