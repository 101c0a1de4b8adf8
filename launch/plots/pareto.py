"""The figure of a sweep: the metric over what the runs cost."""

import math
import pathlib
import statistics
from collections.abc import Sequence

from launch.plots.panels import band, panels, save
from launch.sweeps.cells import RATIO, Cell, mean_of

COSTS = (
    (RATIO, "counted training FLOPs over dense"),
    ("kept_parameters", "kept parameters"),
    ("processor_seconds", "measured processor seconds of training"),
)
"""Column of a cost -> what stands beside its axis."""
_COLORS = 20


def draw(found: Sequence[Cell], metric: str, path: pathlib.Path) -> None:
    """The metric over three costs: a line a variant over sparsities, a band over seeds.

    Args:
      found: the cells of `launch.sweeps.cells`.
      metric: its column.
      path: of the file.
    """
    figure, all_axes = panels(len(COSTS), (4.3, 4.2), same_y=True)
    variants = list(dict.fromkeys(cell.variant for cell in found))
    factor = 100 if metric.endswith("accuracy") else 1
    for axes, (cost, label) in zip(all_axes, COSTS, strict=True):
        for number, variant in enumerate(variants):
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
            [line] = axes.plot(
                x,
                means,
                marker="o" if number < _COLORS else "s",
                ms=4,
                lw=1.2,
                color=_color(number),
                label=variant,
            )
            low, high = ([f(values) for _, values in points] for f in (min, max))
            band(axes, x, low, high, line.get_color())
        axes.set_xlabel(label)
        axes.set_xscale("log")
    unit = " (%)" if factor == 100 else ""
    all_axes[0].set_ylabel(f"{metric.replace('_', ' ')}{unit}")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    save(figure, path)


def _color(number: int) -> tuple:
    from matplotlib import colormaps

    return colormaps["tab20"](number % _COLORS)
