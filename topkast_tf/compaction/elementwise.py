"""Activations that are computed entry by entry, of known layers and functions."""

from typing import Any

import numpy as np
import tensorflow as tf

_FUNCTIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "silu", "hard_silu", "mish"),
    *("tanh", "hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "threshold"),
    *("softplus", "softsign", "exponential", "squareplus", "sparse_plus"),
)
_LAYERS = ("ReLU", "LeakyReLU", "ELU")


def is_elementwise(activation: Any, keras: Any) -> bool:
    """Whether an activation is known to be computed entry by entry.

    Args:
      activation: a function, a layer, or None.
      keras: the Keras library.
    """
    if activation is None or is_elementwise_layer(activation, keras):
        return True
    known = [getattr(keras.activations, name, None) for name in _FUNCTIONS]
    return any(activation is each for each in known)


def is_elementwise_layer(layer: Any, keras: Any) -> bool:
    """Whether a layer is one of these activations."""
    if type(layer) is keras.layers.Activation:
        return is_elementwise(layer.activation, keras)
    return any(type(layer) is getattr(keras.layers, name) for name in _LAYERS)


def applied(activation: Any, values: np.ndarray) -> np.ndarray:
    """An activation of each value; what is unknown (NaN) stays so.

    Args:
      activation: a function, a layer, or None.
      values: float64, flat.
    """
    if activation is None:
        return values
    known = np.isfinite(values)
    found = np.full(values.shape, np.nan)
    call = getattr(activation, "call", activation)
    found[known] = np.asarray(call(tf.constant(values[known], tf.float32)))
    return found
