"""The convolution with a sparse weight by the native kernels, with its gradients."""

from collections.abc import Sequence

import tensorflow as tf

from topkast_tf.kernels.library import library
from topkast_tf.kernels.products import entries_of

PADDINGS = ("valid", "same", "causal")
LARGEST_STRIDES = 2**16
"""The product of strides, at most: an input gradient has as many plans."""
LONGEST_ROW = 192
"""Positions in a row of sparse activations, at most: those of a tile."""


def sparse_conv(
    x: tf.Tensor,
    theta: tf.Tensor,
    codes: tf.Tensor,
    *,
    key: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str,
    groups: int = 1,
    dense_gradient: bool = False,
    dense_if: tf.Tensor | None = None,
    sparse_activations: bool = False,
    cpu: str | None = None,
) -> tf.Tensor:
    """The convolution with alpha: alpha = theta on A, 0 elsewhere.

    In two dimensions, with zeros around the image as `padding` says::

        y[n, r, c, o] = sum over k, l, i of
            x[n, s_1 r + d_1 k, s_2 c + d_2 l, i] alpha[k, l, i, o]

    With groups, the outputs of a group read its channels alone: i + g I, with I inputs of
    a group and g that of output o.

    Its gradients are those of the masked product: that of x with alpha, and that of theta
    on B, 0 elsewhere. Each output is summed in a fixed order, whatever the number of
    threads. With x in bfloat16, as of `sparse_matmul`.

    Args:
      x: float32 or bfloat16, images x rows x columns x inputs, or sequences x steps x
        inputs.
      theta: float32, window x inputs of a group x outputs, its window with one or two
        axes; or the vector of its entries in B, as of `sparse_matmul`.
      codes: uint8, of the weight's shape: 2 on A, 1 on B \\ A, 0 outside B.
      key: the weight's own, from `new_key`: its plans are kept under it.
      strides: s, of each axis of the window; their product is at most
        `LARGEST_STRIDES`.
      dilations: d, the distance between neighbours in the window, of each axis.
      padding: `"valid"`, `"same"` as TensorFlow's, or, of sequences, `"causal"`.
      groups: into which inputs and outputs are divided.
      dense_gradient: whether the gradient of theta is that of the dense product.
      dense_if: as of `sparse_matmul`.
      sparse_activations: whether the gradient of theta is dense, and computed from the
        entries of x that are not zero; only where `finds_entries` and without groups,
        elsewhere as with `dense_gradient`.
      cpu: the instruction set; None for the one that the library chose.

    Returns:
      Of x's dtype, images x rows x columns x outputs, or sequences x steps x outputs.

    Raises:
      ValueError: if ranks, strides or padding do not fit each other.
      Unavailable: without native kernels.

    >>> x, theta = tf.constant([[[1.0], [2.0], [3.0]]]), tf.constant([[[5.0]], [[7.0]]])
    >>> codes = tf.constant([[[0]], [[2]]], tf.uint8)
    >>> class Owner: pass
    >>> from topkast_tf.kernels.products import new_key
    >>> owner = Owner()
    >>> sparse_conv(x, theta, codes, key=new_key(owner), strides=[1], dilations=[1],
    ...             padding="valid").numpy().ravel()
    array([14., 21.], dtype=float32)
    """
    axes = x.shape.rank - 2 if x.shape.rank else 0
    is_packed = theta.shape.rank == 1
    fits = axes in (1, 2) and codes.shape.rank == axes + 2
    fits = fits and (is_packed or theta.shape.rank == axes + 2)
    if not fits or len(strides) != axes or len(dilations) != axes:
        raise ValueError(
            "Expected sequences (rank 3) or images (rank 4), a weight of the same rank, "
            "and a stride and a dilation for each axis of its window. Received: "
            f"x.shape={x.shape}, theta.shape={theta.shape}, codes.shape={codes.shape}, "
            f"strides={strides}, dilations={dilations}"
        )
    if padding not in PADDINGS or (padding == "causal" and axes == 2):
        raise ValueError(
            f"Expected padding in {PADDINGS}, 'causal' for sequences only. Received: "
            f"padding={padding!r} and x.shape={x.shape}"
        )
    outputs = output_sizes(x.shape[1:-1], codes.shape[:-2], strides, dilations, padding)
    shape = [x.shape[0], *outputs, codes.shape[-1]]
    dense_gradient = dense_gradient or sparse_activations
    finds = groups == 1 and finds_entries(x.shape, strides)
    sparse_activations = sparse_activations and finds
    if axes == 1:  # one row
        x, codes = x[:, None], codes[None]
        theta = theta if is_packed else theta[None]
        strides, dilations = [1, *strides], [1, *dilations]
    native = library()
    y = native.ops.topkast_sparse_conv(
        x,
        theta,
        codes,
        [] if dense_if is None else [dense_if],
        key=key,
        cpu=cpu or native.cpu,
        strides=list(strides),
        dilations=list(dilations),
        padding=padding.upper(),
        groups=groups,
        dense_gradient=dense_gradient,
        sparse_activations=sparse_activations,
        entries=entries_of(theta, dense_gradient),
    )
    y = y[:, 0] if axes == 1 else y
    y.set_shape(shape)  # forward-mode differentiation cannot trace `ensure_shape`
    return y


def finds_entries(shape: tf.TensorShape, strides: Sequence[int]) -> bool:
    """Whether a weight gradient can be computed from the entries of sparse activations.

    Args:
      shape: that of the activations, in which all axes but the first are known.
      strides: as of `sparse_conv`; 1 is needed.
    """
    known = None not in shape[1:]
    return known and set(strides) == {1} and shape[-2] <= LONGEST_ROW


def output_sizes(
    sizes: Sequence[int | None],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: str,
) -> list[int | None]:
    """The sizes of a convolution's output, of each axis of its window.

    Args:
      sizes: those of the input; None for an unknown one, which stays unknown.
      window: positions in the window.
      strides: as of `sparse_conv`.
      dilations: as of `sparse_conv`.
      padding: as of `sparse_conv`.

    >>> output_sizes([7, None], [3, 3], [2, 2], [1, 1], "valid")
    [3, None]
    """
    found: list[int | None] = []
    for size, positions, stride, dilation in zip(
        sizes, window, strides, dilations, strict=True
    ):
        if size is None:
            found.append(None)
            continue
        reach = (positions - 1) * dilation + 1
        room = size - reach + 1 if padding == "valid" else size
        found.append(max(-(-room // stride), 0))
    return found
