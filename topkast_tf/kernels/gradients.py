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
        of_theta = {
            name: op.get_attr(name) for name in ("dense_gradient", "sparse_activations")
        }
        dx = ops.topkast_sparse_mat_mul(
            *(dy, theta, codes),
            transpose=not transpose,
            code=op.get_attr("code"),
            **of_theta,
            **how,
        )
        inputs, outputs = (dy, x) if transpose else (x, dy)
        if of_theta["sparse_activations"]:
            images = (x[:, None, None] for x in (inputs, outputs))
            gradient = ops.topkast_sparse_activation_gradient(*images, cpu=how["cpu"])
            return dx, gradient[0, 0], None
        if of_theta["dense_gradient"]:
            return dx, tf.matmul(inputs, outputs, transpose_a=True), None
        gradient = ops.topkast_sparse_weight_gradient(inputs, outputs, codes, **how)
        return dx, gradient, None

    @tf.RegisterGradient("TopkastSparseWeightGradient")
    def _(op, upstream):
        x, dy, codes = op.inputs
        on_b = tf.where(tf.cast(codes, tf.bool), upstream, tf.zeros_like(upstream))
        return tf.matmul(dy, on_b, transpose_b=True), tf.matmul(x, on_b), None

    @tf.RegisterGradient("TopkastSparseActivationGradient")
    def _(op, upstream):
        x, dy = op.inputs
        window, dilations, before = (
            op.get_attr(name) for name in ("window", "dilations", "before")
        )
        sizes = zip(x.shape[1:3], dy.shape[1:3], window, dilations, before, strict=True)
        # The forward pass has y[j] = sum over k of w[k] x[j + k dilation - before].
        padding = [
            [zeros, outputs + (taps - 1) * dilation - inputs - zeros]
            for inputs, outputs, taps, dilation, zeros in sizes
        ]
        how = {
            "strides": 1,
            "dilations": dilations,
            "padding": [[0, 0], *padding, [0, 0]],
        }
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.conv2d(x, upstream, **how)
        return tape.gradient(y, x, dy), y
