"""The products of a sparse weight by the native kernels, with their gradients."""

import itertools
import weakref
from typing import Any

import tensorflow as tf

from topkast_tf.kernels.library import library

_keys = itertools.count(1)


def new_key(owner: Any) -> int:
    """A key for the plans of a weight, which are freed with their owner.

    Args:
      owner: the object whose plans they are.
    """
    key = next(_keys)
    weakref.finalize(owner, library().forget_plans, key)
    return key


def sparse_matmul(
    x: tf.Tensor,
    theta: tf.Tensor,
    codes: tf.Tensor,
    *,
    key: int,
    dense_gradient: bool = False,
    dense_if: tf.Tensor | None = None,
    sparse_activations: bool = False,
    cpu: str | None = None,
    code: str = "auto",
) -> tf.Tensor:
    """The product with alpha: ``y = x alpha``, alpha = theta on A, 0 elsewhere.

    Its gradients are those of the masked product: ``dx = dy alpha^T``, and of theta
    ``x^T dy`` on B, 0 elsewhere. Each output is summed in a fixed order, whatever the
    number of threads.

    With x in bfloat16, alpha is rounded to it, as Keras casts it under mixed precision.
    Sums are float32; y and dx are rounded once, to nearest even, and the gradient of theta
    is not rounded.

    Args:
      x: float32 or bfloat16, positions x inputs.
      theta: float32, inputs x outputs; or the vector of its entries in B alone, in the
        order of the weight, and zeros behind them. Its gradient is of the same form.
      codes: uint8, inputs x outputs: 2 on A, 1 on B \\ A, 0 outside B.
      key: the weight's own, from `new_key`: its plans are kept under it.
      dense_gradient: whether the gradient of theta is dense, ``x^T dy`` everywhere.
      dense_if: if given, a scalar bool: only where it is true the gradient of theta is
        dense, if `dense_gradient` says so; elsewhere it is that on B.
      sparse_activations: whether the gradient of theta is dense, and computed from the
        entries of x that are not zero: for a method that makes most of them zero.
      cpu: the instruction set; None for the one that the library chose.
      code: `"generated"` for machine code of the pattern, `"static"` for compiled loops
        over a plan, `"auto"` for generated code where there can be any. The results have
        the same bits.

    Returns:
      Of x's dtype, positions x outputs.

    Raises:
      Unavailable: without native kernels.
      tf.errors.InvalidArgumentError: for other shapes; for `code="generated"` on another
        instruction set than AVX-512, for more than 64 MiB of code, or where the system
        does not run generated code.

    >>> import numpy as np
    >>> theta, codes = tf.constant([[1.0], [2.0]]), tf.constant([[0], [2]], tf.uint8)
    >>> class Owner: pass
    >>> owner = Owner()
    >>> sparse_matmul(tf.constant([[3.0, 4.0]]), theta, codes, key=new_key(owner)).numpy()
    array([[8.]], dtype=float32)
    """
    native = library()
    return native.ops.topkast_sparse_mat_mul(
        x,
        theta,
        codes,
        [] if dense_if is None else [dense_if],
        key=key,
        cpu=cpu or native.cpu,
        dense_gradient=dense_gradient,
        sparse_activations=sparse_activations,
        code=code,
        entries=entries_of(theta, dense_gradient or sparse_activations),
    )


def entries_of(theta: tf.Tensor, dense_gradient: bool = False) -> int:
    """The length of the vector of the entries in B; -1 if theta is the whole weight.

    Args:
      theta: as of `sparse_matmul`.
      dense_gradient: whether its gradient is to be dense.

    Raises:
      ValueError: for a vector of an unknown length, or whose gradient is to be dense.
    """
    shape = tf.TensorShape(theta.shape)
    if shape.rank != 1:
        return -1
    if shape[0] is None or dense_gradient:
        raise ValueError(
            "Expected entries of B of a known number, with a gradient on B. Received: "
            f"theta.shape={shape}, dense_gradient={dense_gradient}"
        )
    return shape[0]
