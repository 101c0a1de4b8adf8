"""The gradients of the native operations, so that TensorFlow differentiates them.

They are registered, and not given by `tf.custom_gradient`, so that gradients of gradients
and `tf.vectorized_map` work too. Each operation is linear in each of its inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_registered: list[Any] = []
_OF_THETA = ("dense_gradient", "sparse_activations")
"""Attributes of the operations that say how the gradient of theta is computed."""


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
        return _of_product(
            *(ops, op, dy, ["key", "cpu", "entries"], ["code", "shape"]),
            ops.topkast_sparse_mat_mul,
            ops.topkast_sparse_weight_gradient,
        )

    @tf.RegisterGradient("TopkastBlockMatMul")
    def _(op, dy):
        return _of_product(
            *(ops, op, dy, ["key", "cpu", "lanes"], []),
            ops.topkast_block_mat_mul,
            ops.topkast_block_weight_gradient,
        )

    @tf.RegisterGradient("TopkastSparseWeightGradient")
    @tf.RegisterGradient("TopkastBlockWeightGradient")
    def _(op, upstream):
        x, dy, codes = op.inputs
        on_b = tf.cast(_on_b(op, upstream, codes), x.dtype)
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
            y = tf.nn.conv2d(x, tf.cast(upstream, x.dtype), **how)
        return tape.gradient(y, x, dy), y

    @tf.RegisterGradient("TopkastSparseConv")
    def _(op, dy):
        x, theta, codes, *dense_if = op.inputs
        how = _of_convolution(op)
        dx = ops.topkast_sparse_conv_input_gradient(
            dy, theta, codes, tf.shape(x), dense_if, **how
        )
        of_weight = None if _is_served(op) else _weight_gradient(ops, op, x, dy)
        return dx, of_weight, None, *(None for _ in dense_if)

    @tf.RegisterGradient("TopkastSparseConvInputGradient")
    def _(op, upstream):
        dy, theta, codes, _, *dense_if = op.inputs
        how = _of_convolution(op)
        y = ops.topkast_sparse_conv(upstream, theta, codes, dense_if, **how)
        served = _is_served(op)
        of_weight = None if served else _weight_gradient(ops, op, upstream, dy)
        return y, of_weight, None, None, *(None for _ in dense_if)

    @tf.RegisterGradient("TopkastSparseConvWeightGradient")
    def _(op, upstream):
        x, dy, codes = op.inputs
        on_b = _on_b(op, upstream, codes)
        y, gradients = _dense_convolution(op, x, on_b)
        return gradients(dy)[0], y, None

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


def _of_product(
    ops: Any,
    op: Any,
    dy: tf.Tensor,
    common: list[str],
    own: list[str],
    product: Callable,
    weight_gradient: Callable,
) -> tuple[tf.Tensor | None, ...]:
    """The gradients of a product with a matrix, or with its transpose.

    Args:
      ops: the operations.
      op: the product.
      dy: the gradient of its output.
      common: attributes of product and weight gradient.
      own: further attributes of the product.
      product: the operation that computes it.
      weight_gradient: that of the gradient of theta on B.
    """
    x, theta, codes, *dense_if = op.inputs
    transpose = op.get_attr("transpose")
    how = {name: op.get_attr(name) for name in common}
    of_product = {name: op.get_attr(name) for name in (*own, *_OF_THETA)}
    of_product |= {"transpose": not transpose, **how}
    dx = product(dy, theta, codes, dense_if, **of_product)
    if _is_served(op):
        return dx, None, None
    inputs, outputs = (dy, x) if transpose else (x, dy)

    def dense():
        if op.get_attr("sparse_activations"):
            images = (x[:, None, None] for x in (inputs, outputs))
            return ops.topkast_sparse_activation_gradient(*images, cpu=how["cpu"])[0, 0]
        gradient = tf.matmul(inputs, outputs, transpose_a=True)
        return tf.cast(gradient, theta.dtype)

    def on_b():
        return weight_gradient(inputs, outputs, codes, **how)

    gradient = _either(op, dense_if, dense, on_b)
    return dx, gradient, None, *(None for _ in dense_if)


def _is_served(op: Any) -> bool:
    """Whether a product is of a weight that is no longer trained: without a gradient."""
    return op.type != "TopkastBlockMatMul" and bool(op.get_attr("shape"))


def _on_b(op: Any, values: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """A gradient of theta on B as a whole weight, zero elsewhere."""
    if op.type == "TopkastBlockWeightGradient" or op.get_attr("entries") < 0:
        return tf.where(tf.cast(codes, tf.bool), values, tf.zeros_like(values))
    places = tf.where(tf.reshape(codes, [-1]) > 0)
    whole = tf.scatter_nd(
        places, values[: tf.shape(places)[0]], [tf.size(codes, tf.int64)]
    )
    return tf.reshape(whole, tf.shape(codes))


def _either(
    op: Any,
    dense_if: Sequence[tf.Tensor],
    dense: Callable[[], tf.Tensor],
    on_b: Callable[[], tf.Tensor],
) -> tf.Tensor:
    """The gradient of theta: the dense one or that on B, as the operation says."""
    if not (op.get_attr("dense_gradient") or op.get_attr("sparse_activations")):
        return on_b()
    return tf.cond(dense_if[0], dense, on_b) if dense_if else dense()


def _of_convolution(op: Any) -> dict[str, Any]:
    names = ("key", "cpu", "entries", "shape", "strides", "dilations", "padding")
    names += ("groups", *_OF_THETA)
    return {name: op.get_attr(name) for name in names}


def _weight_gradient(ops: Any, op: Any, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """The gradient of theta: on B, or the dense one if the operation says so."""
    codes = op.inputs[2]

    def dense():
        if not op.get_attr("sparse_activations"):
            return _dense_convolution(op, x, op.inputs[1])[1](dy)[1]
        window, dilations = codes.shape[:2].as_list(), op.get_attr("dilations")
        return ops.topkast_sparse_activation_gradient(
            x,
            dy,
            window=window,
            dilations=dilations,
            before=_zeros_before(op, window, dilations),
            cpu=op.get_attr("cpu"),
        )

    def on_b():
        return ops.topkast_sparse_conv_weight_gradient(
            x, dy, codes, **_of_convolution(op)
        )

    return _either(op, _conditions(op), dense, on_b)


def _conditions(op: Any) -> Sequence[tf.Tensor]:
    """The input `dense_if` of a convolution, which is its last."""
    return op.inputs[-1:] if op.get_attr("conditions") else ()


def _zeros_before(op: Any, window: Any, dilations: list[int]) -> list[int]:
    """The zeros in front of the activations, by a stride of 1."""
    halo = [(taps - 1) * far for taps, far in zip(window, dilations, strict=True)]
    padding = tf.compat.as_str(op.get_attr("padding"))
    if padding == "CAUSAL":
        return [0, halo[1]]
    return [size // 2 if padding == "SAME" else 0 for size in halo]


def _dense_convolution(
    op: Any, x: tf.Tensor, weight: tf.Tensor
) -> tuple[tf.Tensor, Callable]:
    """TensorFlow's convolution, and its gradients of x and weight as a function of dy.

    The weight is cast to the dtype of x, its gradient back.
    """
    strides, dilations = op.get_attr("strides"), op.get_attr("dilations")
    padding, groups = tf.compat.as_str(op.get_attr("padding")), op.get_attr("groups")
    with tf.GradientTape() as tape:
        tape.watch((x, weight))
        padded = x
        if padding == "CAUSAL":
            before = (tf.shape(weight)[1] - 1) * dilations[1]
            padded = tf.pad(x, [[0, 0], [0, 0], [before, 0], [0, 0]])
        # On a CPU there is no gradient of a convolution with groups.
        parts = [
            tf.nn.convolution(
                *part,
                strides,
                "VALID" if padding == "CAUSAL" else padding,
                "NHWC",  # eager gradients of third order read it from the operation
                dilations,
            )
            for part in zip(
                tf.split(padded, groups, -1),
                tf.split(tf.cast(weight, x.dtype), groups, -1),
                strict=True,
            )
        ]
        y = tf.concat(parts, -1) if groups > 1 else parts[0]
    return y, lambda dy: tape.gradient(y, (x, weight), dy)
