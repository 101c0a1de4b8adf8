"""The products of a weight whose sets are whole blocks, by kernels of their own."""

import tensorflow as tf

from topkast_tf.core.blocks import Blocks
from topkast_tf.kernels.library import library

LANES = 16
"""The lanes of a block: outputs of one input, or inputs of one output."""


def lanes_of(blocks: Blocks | None, inputs: int, outputs: int) -> str | None:
    """Along which axis a weight's sets are whole blocks of `LANES` entries, if any.

    Blocks of a multiple of `LANES` are, and so are those of a whole row or column, unless
    it would leave most of the lanes empty.

    Args:
      blocks: the division of the weight, or None for single entries.
      inputs: rows of the weight as a matrix.
      outputs: its columns.

    Returns:
      `"outputs"`, `"inputs"`, or None.

    >>> from topkast_tf.core.blocks import MatrixView
    >>> lanes_of(Blocks(MatrixView((64, 40)), (1, 16)), 64, 40)
    'outputs'
    >>> lanes_of(Blocks(MatrixView((64, 40)), (32, 2)), 64, 40)
    'inputs'
    >>> lanes_of(Blocks(MatrixView((64, 40)), (8, 8)), 64, 40) is None
    True
    """
    if not isinstance(blocks, Blocks) or not blocks.view.is_in_order:
        return None
    if (blocks.view.rows, blocks.view.cols) != (inputs, outputs):
        return None
    rows, cols = blocks.block
    for axis, size, whole in (("outputs", cols, outputs), ("inputs", rows, inputs)):
        if size % LANES == 0 or LANES // 2 <= size == whole:
            return axis
    return None


def block_matmul(
    x: tf.Tensor,
    theta: tf.Tensor,
    codes: tf.Tensor,
    *,
    key: int,
    lanes: str,
    dense_gradient: bool = False,
    dense_if: tf.Tensor | None = None,
    sparse_activations: bool = False,
    cpu: str | None = None,
) -> tf.Tensor:
    """As `sparse_matmul`, for sets of whole blocks: ``y = x alpha``.

    A block is `LANES` neighbouring outputs of one input, or inputs of one output, from a
    multiple of `LANES` on; the last of an axis may be smaller. Each output is summed in a
    fixed order, whatever the number of threads.

    Args:
      x: float32, positions x inputs.
      theta: float32, inputs x outputs.
      codes: uint8, inputs x outputs: 2 on A, 1 on B \\ A, 0 outside B.
      key: the weight's own, from `new_key`: its plans are kept under it.
      lanes: `"outputs"` or `"inputs"`: the axis along which a block extends.
      dense_gradient: as of `sparse_matmul`.
      dense_if: as of `sparse_matmul`.
      sparse_activations: as of `sparse_matmul`.
      cpu: the instruction set; None for the one that the library chose.

    Returns:
      float32, positions x outputs.

    Raises:
      Unavailable: without native kernels.
      tf.errors.InvalidArgumentError: for other shapes, or if a block has different codes.

    >>> from topkast_tf.kernels.products import new_key
    >>> theta, codes = tf.constant([[1.0, 5.0], [2.0, 3.0]]), [[0, 0], [2, 2]]
    >>> class Owner: pass
    >>> owner = Owner()
    >>> block_matmul(tf.constant([[3.0, 4.0]]), theta, tf.constant(codes, tf.uint8),
    ...              key=new_key(owner), lanes="outputs").numpy()
    array([[ 8., 12.]], dtype=float32)
    """
    native = library()
    return native.ops.topkast_block_mat_mul(
        x,
        theta,
        codes,
        [] if dense_if is None else [dense_if],
        key=key,
        cpu=cpu or native.cpu,
        lanes=lanes,
        dense_gradient=dense_gradient,
        sparse_activations=sparse_activations,
    )
