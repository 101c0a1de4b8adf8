"""The figure of a sweep: the metric over what the runs cost."""

import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from launch.plots.colours import NEUTRAL, Style, style_of
from launch.plots.panels import (
    HEIGHT,
    WIDTH,
    band,
    panels,
    plain,
    powers,
    save,
)
from launch.sweeps.cells import RATIO, Cell, mean_of
from launch.sweeps.metrics import factor_of, label_of

COSTS = (
    (RATIO, "counted training FLOPs over dense"),
    ("kept_parameters", "kept parameters"),
    ("processor_seconds", "measured processor seconds of training"),
)
"""Column of a cost -> what stands beside its axis."""


def draw(found: Sequence[Cell], metric: str, path: pathlib.Path) -> None:
    """The metric over three costs: a line a variant over sparsities, a band over seeds.

    Args:
      found: the cells of `launch.sweeps.cells`.
      metric: its column.
      path: of the file.
    """
    figure, all_axes = panels(len(COSTS), (4.3, 4.2), same_y=True)
    for axes, (cost, label) in zip(all_axes, COSTS, strict=True):
        _fill(axes, found, metric, cost)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(label_of(metric))
    handles, labels = all_axes[0].get_legend_handles_labels()
    plain(figure.legend(handles, labels, loc="outside right upper", fontsize=8))
    save(figure, path)


def panel(found: Sequence[Cell], metric: str, cost: str) -> Any | None:
    """The metric over one cost, as one figure for a page; arguments as for `draw`.

    Args:
      found: the cells.
      metric: its column.
      cost: a column of `COSTS`.

    Returns:
      The figure; None if no run has this cost, as in tables of earlier versions.
    """
    if not any(math.isfinite(mean_of(cell, cost)) for cell in found):
        return None
    figure, [axes] = panels(1, (WIDTH, HEIGHT + 0.3))
    _fill(axes, found, metric, cost)
    axes.set_xlabel(dict(COSTS)[cost])
    axes.set_ylabel(label_of(metric))
    return figure


def _fill(axes: Any, found: Sequence[Cell], metric: str, cost: str) -> None:
    factor = factor_of(metric)
    variants = list(dict.fromkeys(cell.variant for cell in found))
    others = [variant for variant in variants if variant != "dense"]
    places: list[float] = []
    for variant in variants:
        points = sorted(
            (mean_of(each, cost), [factor * v for v in each.values.values()])
            for each in found
            if each.variant == variant and each.values
        )
        points = [point for point in points if math.isfinite(point[0])]
        if not points:
            continue
        x = [at for at, _ in points]
        means = [statistics.fmean(values) for _, values in points]
        is_dense = variant == "dense"
        style = Style(NEUTRAL) if is_dense else style_of(others.index(variant))
        places += x
        low, high = ([f(values) for _, values in points] for f in (min, max))
        band(axes, x, low, high, style.colour)
        axes.plot(x, means, label=_shown(variant), **style.of_lines)
    if places:
        powers(axes, "x", places)


def _shown(variant: str) -> str:
    """A label that Matplotlib does not leave out: it hides those that begin with `_`."""
    return f" {variant}" if variant.startswith("_") else variant
