"""The exploration loss of Top-KAST."""

import math
import numbers
from collections.abc import Callable

import tensorflow as tf

from topkast_tf.core.sets import FORWARD, masked

NORMS = ("l2", "l1")


def exploration_loss(
    theta: tf.Tensor,
    sets: tf.Tensor,
    density: tf.Tensor,
    coefficient: float,
    norm: str = "l2",
) -> tf.Tensor:
    r"""Keeps the active weights small, so that inactive ones can enter A.

    ``"l2"``: ``c * (1/2 sum_A theta^2 + 1/(2D) sum_{B\A} theta^2)``, whose gradient is
    ``c * theta`` on A, ``c * theta / D`` on B \ A and 0 on C.
    ``"l1"``: ``c * (sum_A |theta| + 1/D sum_{B\A} |theta|)``, whose gradient is
    ``c * sign(theta)`` on A and ``c * sign(theta) / D`` on B \ A.

    Args:
      theta: the dense parameter, floating, any shape.
      sets: uint8 set codes (`topkast_tf.core.selection`), in theta's shape.
      density: scalar in (0, 1], the layer's forward density D (kept entries / entries).
      coefficient: c, at least 0.
      norm: ``"l2"`` or ``"l1"``.

    Returns:
      A float32 scalar (float64 for a float64 theta).

    >>> theta = tf.constant([2.0, 1.0, 3.0])
    >>> sets = tf.constant([2, 1, 0], tf.uint8)
    >>> float(exploration_loss(theta, sets, density=0.5, coefficient=1.0))
    3.0

    Source: Top-KAST, section 2.3, which prints the l1 form but calls it an L2
    regularisation. The default here is the squared l2 form: weight decay with a higher
    rate on B \ A.
    """
    dtype = tf.float64 if theta.dtype == tf.float64 else tf.float32
    theta, sets = tf.cast(theta, dtype), tf.convert_to_tensor(sets)
    density = tf.cast(density, dtype)

    @tf.custom_gradient
    def weighted(theta: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        # One weighted copy serves the value and the gradient: autodiff would keep three.
        base = theta if norm == "l2" else tf.sign(theta)
        # Every code except that of C is True.
        scaled = masked(base * (coefficient / density), tf.cast(sets, tf.bool))
        with tf.control_dependencies([scaled]):  # one large temporary at a time
            outside = tf.cast(tf.not_equal(sets, FORWARD), dtype)
            scaled *= tf.maximum(outside, density)  # times D on A
        value = tf.reduce_sum(scaled * theta)
        return value / 2 if norm == "l2" else value, lambda upstream: upstream * scaled

    return weighted(theta)


def validate_exploration(coefficient: object, norm: object) -> None:
    """Raises a ValueError unless the arguments are a coefficient and a norm.

    >>> validate_exploration(1e-4, "l2")
    """
    is_number = isinstance(coefficient, numbers.Real) and not isinstance(
        coefficient, bool
    )
    if not is_number or not 0 <= coefficient < math.inf:  # type: ignore[operator]
        raise ValueError(
            "`exploration` must be a number of at least 0. "
            f"Received: exploration={coefficient!r}"
        )
    if norm not in NORMS:
        raise ValueError(
            f"`exploration_norm` must be one of {list(NORMS)}. "
            f"Received: exploration_norm={norm!r}"
        )
