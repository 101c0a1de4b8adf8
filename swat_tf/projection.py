"""Sparse random projections, which estimate a product in fewer dimensions. Pure."""

import math

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.layers.products import Product

_SIDES = 6  # of the die: one for +1, one for -1


def reduced_dimension(points: int, epsilon: float) -> int:
    """The dimension in which distances between points change by epsilon at most.

    ``k' = floor(4 ln n / (e^2 / 2 - e^3 / 3))``, at least 1: the Johnson-Lindenstrauss
    lemma in the form of Dasgupta and Gupta (2003).

    Args:
      points: n, their number, at least 1.
      epsilon: e, in (0, 1).

    >>> [reduced_dimension(128, epsilon) for epsilon in (0.3, 0.5, 0.9)]
    [539, 232, 119]
    """
    bound = 4 * math.log(points) / (epsilon**2 / 2 - epsilon**3 / 3)
    return max(1, math.floor(bound))


def random_signs(inputs: int, dimension: int, seed: tf.Tensor) -> tf.Tensor:
    """The signs of R, transposed: +1, 0 and -1 with probabilities 1/6, 2/3 and 1/6.

    Args:
      inputs: d, the dimension of what is projected.
      dimension: k', the reduced one.
      seed: integer scalar; the signs are a pure function of it.

    Returns:
      float32 ``[d, k']``.

    >>> sorted(set(random_signs(30, 4, tf.constant(0)).numpy().ravel().tolist()))
    [-1.0, 0.0, 1.0]
    """
    # Philox by name: the automatic choice differs between XLA and the op-by-op kernels.
    sides = tf.random.stateless_uniform(
        [inputs, dimension],
        tf.stack([tf.cast(seed, tf.int64), 0]),
        minval=0,
        maxval=_SIDES,
        dtype=tf.int32,
        alg="philox",
    )
    plus, minus = tf.equal(sides, _SIDES - 1), tf.equal(sides, 0)
    return tf.cast(plus, tf.float32) - tf.cast(minus, tf.float32)


def estimated_product(
    product: Product,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    signs: tf.Tensor,
    view: MatrixView,
    shape: tf.Tensor,
) -> tf.Tensor:
    """``<f(X), f(W)>`` with ``f(z) = R z / sqrt(k')`` and ``R = sqrt(3) signs^T``.

    X are the inputs of each position and W those of each output. The layer's own product
    with R as its kernel is f(X): in a convolution, without copies of overlapping windows.

    Args:
      product: of matrices or a convolution of one group, channels last.
      inputs: of the layer.
      kernel: its kernel; the outputs are its last axes.
      signs: of R, ``[d, k']``, as from `random_signs`.
      view: the kernel's view.
      shape: int32 vector, the shape of the product.

    Returns:
      float32, of that shape.

    >>> a, w = tf.constant([[1.0, 2.0]]), tf.constant([[3.0], [4.0]])
    >>> view = MatrixView((2, 1))
    >>> estimated_product(tf.matmul, a, w, tf.constant([[1.0], [0.0]]), view, [1, 1])
    <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[9.]], dtype=float32)>
    """
    dimension = signs.shape[1]
    outputs = len(view.output_axes)
    window = [*view.shape[:-outputs], dimension, *[1] * (outputs - 1)]
    low_x = product(tf.cast(inputs, tf.float32), tf.reshape(signs, window))
    low_w = tf.matmul(
        signs, view.to_matrix(tf.cast(kernel, tf.float32)), transpose_a=True
    )
    found = tf.matmul(tf.reshape(low_x, [-1, dimension]), low_w)
    # sqrt(3) and 1 / sqrt(k') of both factors; the signs alone need no rounding.
    return tf.reshape(found * (3 / dimension), shape)
