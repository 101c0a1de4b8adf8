"""Whole slices of convolution kernels as units of selection. Pure."""

import dataclasses
import math

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView

STRUCTURES = ("channel", "filter")


@dataclasses.dataclass(frozen=True)
class KernelSlices:
    """The division of a convolution kernel into slices, ranked by their L1 response.

    ``score[i, o] = sum |theta[..., i, o]|`` over the positions of the window for
    ``"channel"``: one slice per (input channel, filter), so that different filters
    keep different channels. ``score[o] = sum |theta[..., :, o]|`` for ``"filter"``.

    Attributes:
      view: the kernel's view, with `spatial_axes` above 0.
      structure: ``"channel"`` or ``"filter"``.

    >>> slices = KernelSlices(MatrixView((3, 3, 4, 8), spatial_axes=2), "channel")
    >>> slices.count
    32
    """

    view: MatrixView
    structure: str = "channel"

    @property
    def _summed(self) -> list[int]:
        rank = len(self.view.shape)
        axes = list(range(self.view.spatial_axes))
        if self.structure == "filter":
            outputs = {axis % rank for axis in self.view.output_axes}
            axes += [axis for axis in range(len(axes), rank) if axis not in outputs]
        return axes

    @property
    def _grid(self) -> list[int]:
        return [
            1 if axis in self._summed else size
            for axis, size in enumerate(self.view.shape)
        ]

    @property
    def count(self) -> int:
        """The number of slices."""
        return math.prod(self._grid)

    def scores(self, kernel: tf.Tensor) -> tf.Tensor:
        """One float32 score per slice, flat."""
        magnitudes = tf.abs(tf.cast(kernel, tf.float32))
        return tf.reshape(tf.reduce_sum(magnitudes, axis=self._summed), [-1])

    def expand(self, codes: tf.Tensor) -> tf.Tensor:
        """Expands one code per slice to one per entry, in the kernel's shape."""
        return tf.broadcast_to(tf.reshape(codes, self._grid), self.view.shape)


def validate_structure(structure: object) -> None:
    """Raises a ValueError unless this is a structure, or None for single weights.

    >>> validate_structure("channel")
    """
    if structure is not None and structure not in STRUCTURES:
        raise ValueError(
            f"`structured` must be None or one of {list(STRUCTURES)}. "
            f"Received: structured={structure!r}"
        )
