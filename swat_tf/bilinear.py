"""The sparse product: any op linear in activation and weight, with other gradients.

    forward          y  = op(a, w~)
    input gradient   da = vjp of op at w~, of dy        (not masked)
    weight gradient  dw = vjp of op at a~, of dy        (dense)

with ``w~`` the largest weights and ``a~`` the largest activations. Because the op is
bilinear, its gradient with respect to one operand depends only on the other: one call of
its own gradient, at ``(a~, w~)``, gives both.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from swat_tf import packing

Op = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Change = Callable[[tf.Tensor], tf.Tensor]

_TOLERANCE = 1e-3
_COARSE = {tf.bfloat16: 2**-4, tf.float16: 2**-7}  # 16 rounding errors


def sparse_product(
    op: Op,
    activation: tf.Tensor,
    weight: tf.Tensor,
    *,
    forward_activation: Change | None = None,
    forward_weight: Change | None = None,
    saved_activation: Callable[[tf.Tensor], Any] | None = None,
    saved_weight: Callable[[tf.Tensor], Any] | None = None,
    error: Change | None = None,
    after_gradient: Callable[[], None] | None = None,
) -> tf.Tensor:
    """``op(activation, weight)``, with each operand of each product replaced as given.

    Args:
      op: linear in each of its two arguments.
      activation: floating tensor.
      weight: floating tensor.
      forward_activation: the activation -> the operand of the forward pass; the
        identity by default, as for all of these.
      forward_weight: the weight -> the operand of the forward pass.
      saved_activation: the activation -> the operand of the weight gradient, a tensor
        or a `packing.Packed`, which is stored until then.
      saved_weight: the weight -> the operand of the input gradient, likewise.
      error: the gradient of the output -> the one that both gradients use.
      after_gradient: called after the gradients are computed.

    Returns:
      The op's output. Gradients pass straight through all replacements to `activation`
      and `weight`.

    >>> a, w = tf.constant([[3.0]]), tf.constant([[2.0]])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch((a, w))
    ...     y = sparse_product(tf.matmul, a, w, saved_activation=tf.zeros_like)
    >>> [x.numpy().item() for x in (y, *tape.gradient(y, (a, w)))]
    [6.0, 2.0, 0.0]
    """

    @tf.custom_gradient
    def product(activation, weight):
        outputs = op(
            activation
            if forward_activation is None
            else forward_activation(activation),
            weight if forward_weight is None else forward_weight(weight),
        )
        # The tensors of this closure stay in memory until the backward pass.
        kept_a = (
            activation if saved_activation is None else saved_activation(activation)
        )
        kept_w = weight if saved_weight is None else saved_weight(weight)

        if isinstance(kept_a, packing.Packed):
            # Before anything else, so that the dense activation is freed.
            with tf.control_dependencies(list(kept_a)):
                outputs = tf.identity(outputs)

        def gradient(upstream):
            upstream = upstream if error is None else error(upstream)
            # Only now: nothing else keeps the executor from unpacking right after
            # packing.
            with tf.control_dependencies([upstream]):
                dense_a, dense_w = _dense(kept_a), _dense(kept_w)
            gradients = _gradients(op, dense_a, dense_w, upstream)
            if isinstance(kept_a, packing.Packed):
                # One layer at a time: a postponed weight gradient keeps its activation
                # and its error in memory.
                with tf.control_dependencies(gradients[1:]):
                    gradients[0] = tf.identity(gradients[0])
            if after_gradient is not None:
                after_gradient()
            return gradients

        return outputs, gradient

    return product(activation, weight)


def _gradients(op: Op, a: tf.Tensor, w: tf.Tensor, upstream: tf.Tensor) -> list:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch((a, w))
        # In a graph its value is unused, and so it is never computed.
        again = op(a, w)
    found = tape.gradient(again, (a, w), upstream, unconnected_gradients="zero")
    return list(found)


def _dense(kept: Any) -> tf.Tensor:
    return packing.unpack(kept) if isinstance(kept, packing.Packed) else kept


def check_bilinear(op: Op, activation: tf.Tensor, weight: tf.Tensor) -> None:
    """Raises a ValueError unless an op is linear in each argument, by a numerical test.

    The op is tested on random numbers: ``op(a + 2 a', w) = op(a, w) + 2 op(a', w)``,
    ``op(0, w) = 0``, and the same for w. Each op is tested once per pair of shapes and
    dtypes.

    Not checked: an op on tensors with an unknown size other than the activation's first
    axis, the batch (taken as 2), and an op that raises an error on random numbers.

    Args:
      op: a function of (activation, weight).
      activation, weight: tensors; only their shapes and dtypes are used.
    """
    if activation.shape.rank is None or not weight.shape.is_fully_defined():
        return
    sizes = activation.shape.as_list()
    if None in sizes[1:]:
        return
    a_shape = (sizes[0] or 2, *sizes[1:]) if sizes else ()
    _check_bilinear(op, a_shape, tuple(weight.shape), activation.dtype, weight.dtype)


@functools.lru_cache(maxsize=256)
def _check_bilinear(
    op: Op,
    a_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    a_dtype: tf.DType,
    w_dtype: tf.DType,
) -> None:
    with tf.init_scope():  # eagerly, even while a graph is being traced
        try:
            errors = _deviations(op, a_shape, w_shape, a_dtype, w_dtype)
        except Exception:  # the op's own error: the actual call will raise it
            return
    for operand, error in errors:
        if not error <= max(_TOLERANCE, _COARSE.get(a_dtype, 0.0)):
            raise ValueError(
                "Expected an op that is linear in its activation and in its weight, "
                "such as a matrix product or a convolution (a bias and an activation "
                f"function are applied outside). Received: {op!r}, which is not "
                f"linear in its {operand}"
            )


def _deviations(
    op: Op,
    a_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    a_dtype: tf.DType,
    w_dtype: tf.DType,
) -> list[tuple[str, float]]:
    """An op's deviation from linearity in each operand, relative to its output."""
    a, a2 = (tf.random.stateless_normal(a_shape, [n, 7], dtype=a_dtype) for n in (0, 1))
    w, w2 = (tf.random.stateless_normal(w_shape, [n, 7], dtype=w_dtype) for n in (2, 3))
    pairs = (
        ("activation", op(a + 2 * a2, w), op(a, w) + 2 * op(a2, w)),
        ("weight", op(a, w + 2 * w2), op(a, w) + 2 * op(a, w2)),
        # Exact: a coarse dtype hides a small constant in the tests above.
        ("activation", op(tf.zeros_like(a), w), 0),
        ("weight", op(a, tf.zeros_like(w)), 0),
    )
    return [
        (
            operand,
            _largest(tf.convert_to_tensor(whole) - parts) / (_largest(parts) + 1e-6),
        )
        for operand, whole, parts in pairs
    ]


def _largest(x: Any) -> float:
    return float(tf.reduce_max(tf.abs(tf.cast(x, tf.float64)))) if tf.size(x) else 0.0
