"""Alpha, the forward value of a sparse variable, and its gradients."""

import tensorflow as tf

from topkast_tf.core.sets import FORWARD, masked
from topkast_tf.kernels import training


def on_backward(sets: tf.Tensor) -> tf.Tensor:
    """The mask of B: every code except that of C, which is 0, is True."""
    return tf.cast(sets, tf.bool)


def sparse_view(theta: tf.Tensor, sets: tf.Tensor, natively: bool = False):
    """Alpha: theta on A, zero elsewhere; its gradient is masked by B.

    ``alpha_i = theta_i if i in A else 0``; ``d/dtheta_i = d/dalpha_i if i in B else 0``.

    Args:
      theta: floating tensor.
      sets: uint8 set codes in theta's shape.
      natively: whether the gradient is masked by a native operation, for float32.

    Returns:
      A tensor like theta.

    >>> sparse_view(tf.constant([1.0, 2.0]), tf.constant([0, 2], tf.uint8)).numpy()
    array([0., 2.], dtype=float32)

    Source: Top-KAST, section 2.
    """

    @tf.custom_gradient
    def view(theta: tf.Tensor, sets: tf.Tensor):
        alpha = masked(theta, tf.equal(sets, FORWARD))

        def gradient(upstream):
            upstream = tf.convert_to_tensor(upstream)
            if natively:
                return training.mask(upstream, sets), None
            return masked(upstream, on_backward(sets)), None

        return alpha, gradient

    return view(theta, sets)


@tf.custom_gradient
def straight_through_view(theta: tf.Tensor, sets: tf.Tensor):
    """Alpha: theta on A, zero elsewhere; its gradient reaches every entry.

    ``alpha_i = theta_i if i in A else 0``; ``d/dtheta_i = d/dalpha_i``: `sparse_view`
    where B holds every entry, as in SWAT and DNW.

    >>> straight_through_view(tf.constant([1.0, 2.0]), tf.constant([0, 2], tf.uint8))
    <tf.Tensor: shape=(2,), dtype=float32, numpy=array([0., 2.], dtype=float32)>
    """
    alpha = masked(theta, tf.equal(sets, FORWARD))
    # A row lookup, or a product with a sparse tensor, gives `IndexedSlices`.
    return alpha, lambda upstream: (tf.convert_to_tensor(upstream), None)
