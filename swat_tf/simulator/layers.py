"""Layers as the simulator sees them: shapes of convolutions and of products of matrices."""

from __future__ import annotations

import dataclasses
import itertools
import math

from swat_tf.simulator.checks import check_counts, check_sizes


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution with any number of spatial dimensions; a matrix is one of 1 x 1.

    Args:
      name: unique among the layers that are simulated together.
      kernel: (window..., input channels of a group, filters).
      inputs: spatial sizes of the input, without padding.
      strides: one for each spatial dimension; default 1.
      dilation: the same.
      padding: (before, after) for each spatial dimension; default none.
      groups: groups of channels; of a depthwise convolution, the input channels.

    Raises:
      ValueError: for shapes that do not belong together.

    >>> layer = Layer("conv", (3, 3, 64, 128), (56, 56), (2, 2), padding=((1, 1), (1, 1)))
    >>> layer.outputs, layer.macs
    ((28, 28), 57802752)
    """

    name: str
    kernel: tuple[int, ...]
    inputs: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        axes = len(self.inputs)
        ones, none = (1,) * axes, ((0, 0),) * axes
        object.__setattr__(self, "strides", tuple(self.strides) or ones)
        object.__setattr__(self, "dilation", tuple(self.dilation) or ones)
        object.__setattr__(self, "padding", tuple(self.padding) or none)
        for name in ("kernel", "inputs", "strides", "dilation"):
            for size in getattr(self, name):
                check_sizes(**{name: size})
        for size in itertools.chain(*self.padding):
            check_counts(padding=size)
        check_sizes(groups=self.groups)
        found = (len(self.kernel) - 2, len(self.strides), len(self.dilation))
        if not axes or any(each != axes for each in (*found, len(self.padding))):
            raise ValueError(
                "Expected a kernel of (window..., input channels, filters), with as many "
                "strides, dilations and paddings as spatial sizes, at least one. "
                f"Received: {self}"
            )
        if self.kernel[-1] % self.groups:
            raise ValueError(
                "Expected a number of filters that is a multiple of the groups. "
                f"Received: {self}"
            )
        if min(self.outputs) < 1:
            raise ValueError(
                f"Expected an input of at least the size of the window. Received: {self}"
            )

    @classmethod
    def dense(cls, name: str, inputs: int, outputs: int, windows: int = 1) -> Layer:
        """A product of matrices: (windows x inputs) (inputs x outputs) for each example.

        >>> Layer.dense("fc", 2048, 1000).macs
        2048000
        """
        check_sizes(inputs=inputs, outputs=outputs, windows=windows)
        return cls(name, (1, inputs, outputs), (windows,))

    @property
    def window(self) -> tuple[int, ...]:
        """Spatial sizes of the kernel."""
        return self.kernel[:-2]

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return math.prod(self.window)

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.kernel[-2] * self.groups

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            (size + sum(pads) - dilation * (window - 1) - 1) // stride + 1
            for size, pads, dilation, window, stride in zip(
                self.inputs,
                self.padding,
                self.dilation,
                self.window,
                self.strides,
                strict=True,
            )
        )

    @property
    def positions(self) -> int:
        """Positions of the output, for each example."""
        return math.prod(self.outputs)

    @property
    def macs(self) -> int:
        """Dense multiply-adds of the forward pass, for each example; padding counts."""
        return self.positions * math.prod(self.kernel)

    @property
    def phases(self) -> list[tuple[list[int], int]]:
        """The input gradient as convolutions of stride 1: (taps, input positions) of each.

        With a stride the error is dilated: between its entries there are stride - 1
        zeros. Input positions with the same remainder by the stride meet the same taps;
        the others meet only those zeros. So each remainder is a convolution with a part
        of the taps, and no zero of the dilation is multiplied.

        >>> [(len(taps), n) for taps, n in Layer("c", (3, 3, 1, 1), (4, 4), (2, 2)).phases]
        [(4, 4), (2, 4), (2, 4), (1, 4)]
        """
        each_axis = []
        for size, (before, _), dilation, window, stride in zip(
            self.inputs,
            self.padding,
            self.dilation,
            self.window,
            self.strides,
            strict=True,
        ):
            found = []
            for rest in range(stride):
                taps = [k for k in range(window) if k * dilation % stride == rest]
                places = len(range((rest - before) % stride, size, stride))
                if taps and places:
                    found.append((taps, places))
            each_axis.append(found)
        phases = []
        for parts in itertools.product(*each_axis):
            flat = [0]
            for (taps, _), window in zip(parts, self.window, strict=True):
                flat = [place * window + tap for place in flat for tap in taps]
            phases.append((flat, math.prod(places for _, places in parts)))
        return phases
