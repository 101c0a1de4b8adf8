"""Conversion of a sparse model to a plain one."""

from typing import Any

from topkast_tf.layers.remaking import copy_values, made_again
from topkast_tf.layers.structure import library_of


def strip(model: Any) -> Any:
    """A plain Keras model with the same outputs and zeros in its kernels.

    ``kernel = alpha = theta on A, 0 elsewhere``. It has the model's original layer
    classes, so that it saves and loads without this library, and its dropout continues
    with the same random numbers; the given model is not changed. Optimizer and metrics
    are not copied: compile the plain model to evaluate or train it (training would fill
    the zeros). Activations that SWAT sparsifies in the forward pass, as in an ablation,
    are dense in the plain model: only then do the outputs differ.

    Args:
      model: a built Keras 3 or tf_keras model or layer. A subclassed one must define
        `get_config`, as for saving by Keras.

    Returns:
      The plain model.

    Raises:
      TypeError: for anything but a Keras model or layer.
      ValueError: if the model is not built, or cannot be rebuilt from its config.

    >>> import keras
    >>> from topkast_tf import strip, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> plain = strip(model)
    >>> int((plain.layers[0].kernel.numpy() != 0).sum()), len(plain.weights)
    (10, 2)
    """
    if library_of(model) is None:
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r}")
    plain = made_again(model)
    copy_values(model, plain)
    return plain
