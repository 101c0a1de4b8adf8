"""Powerpropagation: a weight as a power of the parameter that the optimizer trains."""

from typing import Any

import tensorflow as tf


def powered(theta: tf.Tensor, power: float) -> tf.Tensor:
    """``w = theta |theta|^(p - 1)``, with ``dw/dtheta = p |theta|^(p - 1)``.

    It keeps signs, and the order of magnitudes: the largest entries of w are those of
    theta. An update of w is about as large as w itself to the power of ``2 - 2/p``, so that
    small weights stay small, and training makes many of them that can be removed.

    Args:
      theta: floating tensor.
      power: p, at least 1; 1 returns theta.

    >>> powered(tf.constant([-3.0, 2.0]), 2.0).numpy()
    array([-9.,  4.], dtype=float32)

    Source: Schwarz et al., Powerpropagation, NeurIPS 2021, equation 1.
    """
    if power == 1:
        return theta

    @tf.custom_gradient
    def forward(theta: tf.Tensor) -> Any:
        # Not by the derivative of `pow`, which is NaN at 0 for p < 2.
        scale = tf.pow(tf.abs(theta), tf.cast(power - 1, theta.dtype))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            factor = tf.cast(power, theta.dtype)
            return tf.convert_to_tensor(upstream) * factor * scale

        return theta * scale, gradient

    return forward(theta)


def root(weight: tf.Tensor, power: float) -> tf.Tensor:
    """The theta of which a weight is the power: ``sign(w) |w|^(1/p)``.

    >>> root(tf.constant([-9.0, 4.0]), 2.0).numpy()
    array([-3.,  2.], dtype=float32)
    """
    if power == 1:
        return weight
    exponent = tf.cast(1 / power, weight.dtype)
    return tf.sign(weight) * tf.pow(tf.abs(weight), exponent)
