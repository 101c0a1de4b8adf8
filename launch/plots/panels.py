"""What all plots share: panels side by side with a grid, bands over seeds, files."""

import pathlib
from collections.abc import Sequence
from typing import Any

DOTS_PER_INCH = 120


def panels(
    count: int = 1, size: tuple[float, float] = (6, 3.6), *, same_y: bool = False
) -> tuple[Any, list[Any]]:
    """A figure, and its panels from left to right, with grids.

    Args:
      count: number of panels.
      size: width and height of each, in inches.
      same_y: whether all have the y axis of the first.
    """
    # When something is drawn, and not before: it takes a second.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width, height = size
    figure, axes = plt.subplots(
        1,
        count,
        figsize=(width * count, height),
        sharey=same_y,
        layout="constrained",
        squeeze=False,
    )
    for each in axes[0]:
        each.grid(alpha=0.3)
    return figure, list(axes[0])


def band(
    axes: Any,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    color: Any,
) -> None:
    """The range over seeds: between two lines, or at a single point a stroke."""
    if len(x) > 1:
        axes.fill_between(x, low, high, color=color, alpha=0.15)
    else:
        axes.vlines(x, low, high, color=color, lw=1)


def save(figure: Any, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a figure, and frees it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
    return pathlib.Path(path)
