"""ReLU that saves one bit per entry for its backward pass, not its output."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from swat_tf.packing import pack_bits, unpack_bits
from topkast_tf.core.chunks import map_in_chunks
from topkast_tf.core.trace_once import trace_once
from topkast_tf.variables.hooks import loaded_keras_libraries


def masked_relu(x: tf.Tensor) -> tf.Tensor:
    """``max(x, 0)``; saves ``x > 0`` for the gradient, eight entries per byte.

    TensorFlow's own ReLU saves its output, which would stay in memory in addition to
    SWAT's packed activations.

    Args:
      x: floating tensor.

    Returns:
      A tensor like x.

    >>> masked_relu(tf.constant([-1.0, 2.0])).numpy()
    array([0., 2.], dtype=float32)
    """
    return _masked_relu(x)


@tf.custom_gradient
def _masked_relu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
    shape = tf.shape(x)
    [bits] = _positive(tf.reshape(x, [-1]))
    with tf.control_dependencies([bits]):  # so that x is freed
        y = tf.nn.relu(x)

    def gradient(upstream):
        with tf.control_dependencies([upstream]):  # not right after packing
            mask = tf.reshape(_unpacked(bits, tf.reduce_prod(shape)), shape)
        return tf.where(mask, upstream, tf.zeros([], upstream.dtype))

    return y, gradient


@trace_once
def _positive(flat: tf.Tensor) -> list[tf.Tensor]:
    parts = map_in_chunks(lambda part: [pack_bits(part > 0)], flat)
    return [tf.concat([bits for [bits] in parts], 0)]


_unpacked = trace_once(unpack_bits)


def saving_a_mask(function: Callable) -> Callable:
    """`masked_relu` for the ReLU of a Keras library; any other function unchanged."""
    return masked_relu if _is_relu(function) else function


def _is_relu(function: Any) -> bool:
    return any(
        function is library.activations.relu for library in loaded_keras_libraries()
    )
