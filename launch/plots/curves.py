"""Figures of runs over their steps or costs: one line a group, a band over its seeds."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from launch.plots.colours import NEUTRAL, Style
from launch.plots.panels import HEIGHT, STEPS, WIDTH, band, magnitude, panels, powers

_UNLIKE, _WIDE = 3, 50
"""Ratio of the ends of lines, and of values, above which an axis is logarithmic."""


class Line(NamedTuple):
    """One line of a figure, point by point.

    Attributes:
      label: in the legend.
      style: how it is drawn.
      x: where its points are.
      mean: their values, means over the seeds.
      low: the lowest value of a seed.
      high: the highest value of a seed.
      has_band: whether it is of several seeds.
    """

    label: str
    style: Style
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    has_band: bool = False


def draw(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    in_powers: bool = False,
    across: Mapping[str, float] = MappingProxyType({}),
) -> Any:
    """The lines in one panel.

    An axis is logarithmic if its values are above 0 and differ so much that a line, or
    the beginning of one, would be hard to see.

    Args:
      lines: at least one.
      x_label: what stands below.
      y_label: what stands beside.
      in_powers: whether the x axis has 1 M in the place of 1000000.
      across: name -> value of a line across the panel, to compare with.

    Returns:
      The figure.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, [axes] = panels(1, (WIDTH, HEIGHT))
    for line in lines:
        if line.has_band:
            band(axes, line.x, line.low, line.high, line.style.colour)
        axes.plot(line.x, line.mean, label=line.label, **line.style.of_lines)
    for name, value in across.items():
        axes.axhline(value, color=NEUTRAL, linestyle="--", linewidth=1)
        place = (1, value)
        axes.annotate(
            f" {name}", place, xycoords=("axes fraction", "data"), va="center"
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    if in_powers:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: magnitude(x)))
        # Lines of unlike lengths: the short ones would be at the edge.
        ends = [line.x[-1] for line in lines]
        if max(ends) > _UNLIKE * min(ends):
            powers(axes, "x", [x for line in lines for x in line.x])
            axes.autoscale(axis="x")
    values = [value for line in lines for value in line.mean]
    if max(values) > _WIDE * min(values):
        powers(axes, "y", values)
    return figure


def single(
    label: str, style: Style, x: Sequence[float], values: Sequence[float]
) -> Line:
    """The line of one run."""
    return Line(label, style, x, values, values, values)


def beside(
    studies: Mapping[str, Sequence[Line]], x_label: str, y_labels: Sequence[str]
) -> Any:
    """A panel for each of several studies; lines of one label have one entry.

    Args:
      studies: title -> lines.
      x_label: what stands below each.
      y_labels: what stands beside each.

    Returns:
      The figure.
    """
    figure, every = panels(len(studies), (WIDTH, HEIGHT))
    for axes, (title, lines), y_label in zip(
        every, studies.items(), y_labels, strict=True
    ):
        for line in lines:
            style = line.style.of_lines | {"marker": ""}
            axes.plot(line.x, line.mean, label=line.label, **style)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return figure
