"""The gradients of the native operations, so that TensorFlow differentiates them.

They are registered, and not given by `tf.custom_gradient`, so that gradients of gradients
and `tf.vectorized_map` work too. Each operation is linear in each of its inputs.
"""

from typing import Any

import tensorflow as tf

_registered: list[Any] = []


def register(ops: Any) -> None:
    """Registers the gradients of the operations of a library that was just loaded.

    Args:
      ops: the module that `tf.load_op_library` returns.
    """
    if _registered:  # a process can register them once
        return
    _registered.append(ops)

    @tf.RegisterGradient("TopkastSparseMatMul")
    def _(op, dy):
        x, theta, codes = op.inputs
        transpose = op.get_attr("transpose")
        how = {"key": op.get_attr("key"), "cpu": op.get_attr("cpu")}
        dense = op.get_attr("dense_gradient")
        dx = ops.topkast_sparse_mat_mul(
            dy, theta, codes, transpose=not transpose, dense_gradient=dense, **how
        )
        inputs, outputs = (dy, x) if transpose else (x, dy)
        if dense:
            return dx, tf.matmul(inputs, outputs, transpose_a=True), None
        gradient = ops.topkast_sparse_weight_gradient(inputs, outputs, codes, **how)
        return dx, gradient, None

    @tf.RegisterGradient("TopkastSparseWeightGradient")
    def _(op, upstream):
        x, dy, codes = op.inputs
        on_b = tf.where(tf.cast(codes, tf.bool), upstream, tf.zeros_like(upstream))
        return tf.matmul(dy, on_b, transpose_b=True), tf.matmul(x, on_b), None

    @tf.RegisterGradient("TopkastMask")
    def _(op, upstream):
        return ops.topkast_mask(upstream, op.inputs[1], cpu=op.get_attr("cpu")), None

    @tf.RegisterGradient("TopkastExplorationLoss")
    def _(op, upstream):
        return _exploration(op, op.inputs[0], upstream), None, None

    @tf.RegisterGradient("TopkastExplorationGradient")
    def _(op, upstream):
        # Linear in theta, and in the upstream gradient of the loss.
        theta, scale = op.inputs[0], op.inputs[3]
        of_scale = tf.reduce_sum(upstream * _exploration(op, theta, tf.ones([])))
        return _exploration(op, upstream, scale), None, None, of_scale

    def _exploration(op, theta, scale):
        _, sets, density = op.inputs[:3]
        how = {name: op.get_attr(name) for name in ("coefficient", "cpu")}
        return ops.topkast_exploration_gradient(theta, sets, density, scale, **how)
