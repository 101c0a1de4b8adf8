"""The second mask of DSG, after a batch normalization."""

from typing import Any


def double_mask(normalized: Any, activations: Any) -> Any:
    """``normalized`` where ``activations`` are not zero, and zero elsewhere.

    The outputs that `swat_tf.dsg_scope` drops are zero after a ReLU; a batch normalization
    that follows moves them away from zero. This restores them, and the gradient through
    them is zero.

    Args:
      normalized: the output of the normalization: a tensor, or a symbolic one of a
        functional model of Keras 3, which saves and loads with the model.
      activations: its input, after the ReLU, of the same shape.

    Returns:
      A tensor like `normalized`.

    >>> import keras
    >>> from swat_tf import double_mask, dsg_scope
    >>> with dsg_scope(0.5):
    ...     inputs = keras.Input((8, 8, 3))
    ...     x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    ...     outputs = double_mask(keras.layers.BatchNormalization()(x), x)
    ...     model = keras.Model(inputs, outputs)
    >>> double_mask([0.3, -0.1], [2.0, 0.0]).numpy()
    array([0.3, 0. ], dtype=float32)

    Source: Liu et al., Dynamic Sparse Graph, ICLR 2019, section 2.3: convolution, ReLU,
    normalization, in this order, and the same mask twice. Departs from it in that a
    selected output that the ReLU makes zero is zero after the normalization, too: "under
    reasonably large sparsity" the source finds none.
    """
    from keras import ops  # not needed to train without it

    normalized = ops.convert_to_tensor(normalized)
    is_kept = ops.not_equal(activations, 0)
    return ops.where(is_kept, normalized, ops.zeros_like(normalized))
