"""The 2-D view of a kernel (inputs x outputs) and its division into blocks. Pure."""

import dataclasses
import math

import tensorflow as tf

REDUCTIONS = ("sum", "max")


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """The 2-D view (inputs x outputs) of a kernel of any rank.

    The output axes are moved last, and both groups of axes are flattened: a convolution
    kernel ``[height, width, in, out]`` becomes ``[height * width * in, out]``.

    Attributes:
      shape: the kernel's shape.
      output_axes: the axes that index outputs; by default the last one.
      spatial_axes: the number of leading axes that are window positions; 0 for
        anything but a convolution.

    >>> view = MatrixView((3, 3, 16, 32))
    >>> view.rows, view.cols
    (144, 32)
    """

    shape: tuple[int, ...]
    output_axes: tuple[int, ...] = (-1,)
    spatial_axes: int = 0

    @property
    def _permutation(self) -> list[int]:
        rank = len(self.shape)
        outputs = sorted(axis % rank for axis in self.output_axes)
        return [axis for axis in range(rank) if axis not in outputs] + outputs

    @property
    def cols(self) -> int:
        """The number of outputs."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def rows(self) -> int:
        """The number of inputs."""
        return math.prod(self.shape) // max(self.cols, 1)

    @property
    def is_in_order(self) -> bool:
        """Whether the matrix is the kernel itself, reshaped: its outputs are last."""
        return self._permutation == list(range(len(self.shape)))

    def to_matrix(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel as a matrix ``[rows, cols]``."""
        return tf.reshape(
            tf.transpose(kernel, self._permutation), [self.rows, self.cols]
        )

    def from_matrix(self, matrix: tf.Tensor) -> tf.Tensor:
        """The inverse of `to_matrix`."""
        order = self._permutation
        permuted = tf.reshape(matrix, [self.shape[axis] for axis in order])
        inverse = [order.index(axis) for axis in range(len(order))]
        return tf.transpose(permuted, inverse)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The division of a kernel's 2-D view into blocks, each ranked as one unit.

    ``score(block) = sum |theta|`` or ``max |theta|`` over the block. If the block does
    not divide the view, the blocks at the lower and right edges are smaller: they count
    as one block each, and ``"sum"`` adds only the entries that exist. A block larger
    than the view is clamped to it.

    Attributes:
      view: the kernel's 2-D view.
      block: ``(rows, cols)`` of a block, each at least 1; stored clamped to the
        view's.
      reduce: ``"sum"`` or ``"max"``.

    >>> blocks = Blocks(MatrixView((4, 6)), (2, 4), "max")
    >>> blocks.grid
    (2, 2)
    """

    view: MatrixView
    block: tuple[int, int]
    reduce: str = "sum"

    def __post_init__(self) -> None:
        # Scores are computed on a view that is padded to whole blocks.
        sizes = zip(self.block, (self.view.rows, self.view.cols), strict=True)
        clamped = tuple(max(1, min(size, most)) for size, most in sizes)
        object.__setattr__(self, "block", clamped)

    @property
    def grid(self) -> tuple[int, int]:
        """The number of blocks, down and across."""
        rows, cols = self.block
        return -(-self.view.rows // rows), -(-self.view.cols // cols)

    @property
    def count(self) -> int:
        """The number of blocks."""
        return math.prod(self.grid)

    def scores(self, kernel: tf.Tensor) -> tf.Tensor:
        """One float32 score per block, flat, in row-major order."""
        (rows, cols), (down, across) = self.block, self.grid
        matrix = tf.abs(tf.cast(self.view.to_matrix(kernel), tf.float32))
        padding = [
            [0, down * rows - self.view.rows],
            [0, across * cols - self.view.cols],
        ]
        tiles = tf.reshape(tf.pad(matrix, padding), [down, rows, across, cols])
        reduce = tf.reduce_sum if self.reduce == "sum" else tf.reduce_max
        return tf.reshape(reduce(tiles, axis=[1, 3]), [-1])

    def expand(self, codes: tf.Tensor) -> tf.Tensor:
        """Expands one code per block to one per entry, in the kernel's shape."""
        (rows, cols), grid = self.block, self.grid
        tiles = tf.broadcast_to(
            tf.reshape(codes, [grid[0], 1, grid[1], 1]), [grid[0], rows, grid[1], cols]
        )
        matrix = tf.reshape(tiles, [grid[0] * rows, grid[1] * cols])
        return self.view.from_matrix(matrix[: self.view.rows, : self.view.cols])


def validate_block(block: object, reduce: object) -> None:
    """Raises a ValueError unless the arguments are a block and a reduction.

    >>> validate_block((4, 1), "sum")
    """
    sizes_are_integers = (
        isinstance(block, tuple | list)
        and len(block) == 2
        and all(type(size) is int and size >= 1 for size in block)
    )
    if block is not None and not sizes_are_integers:
        raise ValueError(
            "`block` must be None or (rows, cols), two integers of at least 1. "
            f"Received: block={block!r}"
        )
    if reduce not in REDUCTIONS:
        raise ValueError(
            f"`block_reduce` must be one of {list(REDUCTIONS)}. "
            f"Received: block_reduce={reduce!r}"
        )
