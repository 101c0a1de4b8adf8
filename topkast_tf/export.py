"""From a sparse model to a plain one."""

from typing import Any

from topkast_tf.layers.remaking import copy_values, made_again
from topkast_tf.layers.structure import library_of


def strip(model: Any) -> Any:
    """A plain Keras model with the same outputs, and zeros in its kernels.

    ``kernel = alpha = theta on A, 0 elsewhere``. It is made of the layer classes that
    the model was written with, so that it saves and loads without this library, and its
    dropout goes on with the same random numbers; the given model is not changed. Its
    optimizer and metrics are left behind: compile it anew to evaluate or train it
    (training would fill the zeros). Activations that SWAT made sparse in the forward
    pass, for a study, are dense in it: there alone the outputs differ.

    Args:
      model: a built Keras 3 or tf_keras model or layer. A subclassed one must define
        `get_config`, as for any saving by Keras.

    Returns:
      The plain model.

    Raises:
      TypeError: for anything but a Keras model or layer.
      ValueError: if the model is not built, or cannot be made again from its config.

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
