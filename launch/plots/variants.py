"""The figure of a study: the metric of each variant, and its range over seeds."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from launch.plots.colours import NEUTRAL, Style, style_of
from launch.plots.panels import panels, plain, save
from launch.sweeps.cells import Cell
from launch.sweeps.metrics import factor_of, label_of

_WIDTH, _ROW, _MARGIN = 6.4, 0.36, 1.1
"""Of the figure in inches; of a variant's row; of title, axis and legend."""
_SPREAD = 0.5
"""The part of a row that its points fill."""


def draw(found: Sequence[Cell], metric: str, path: pathlib.Path) -> None:
    """A row a variant: the mean at each sparsity, a stroke over the range of its seeds.

    A variant that has no sparsity, such as a dense network, is in grey.

    Args:
      found: the cells of `launch.sweeps.cells`.
      metric: its column.
      path: of the file.
    """
    variants = list(dict.fromkeys(cell.variant for cell in found))
    sparsities = sorted({cell.sparsity for cell in found if cell.sparsity}, key=float)
    size = (_WIDTH, _MARGIN + _ROW * len(variants))
    figure, [axes] = panels(1, size)
    factor = factor_of(metric)
    for cell in found:
        values = [factor * value for value in cell.values.values()]
        if not values:
            continue
        style, offset = _place(cell.sparsity, sparsities)
        row = variants.index(cell.variant) + offset
        axes.hlines(row, min(values), max(values), color=style.colour, lw=3, alpha=0.3)
        axes.plot(values, [row] * len(values), "|", color=style.colour, markersize=5)
        axes.plot(
            [statistics.fmean(values)],
            [row],
            color=style.colour,
            marker=style.marker,
            markersize=5,
        )
    axes.set_yticks(range(len(variants)), [_shown(name) for name in variants])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(len(variants) - 0.5, -0.5)  # the first one on top
    axes.set_xlabel(label_of(metric))
    _add_legend(figure, sparsities)
    save(figure, path)


def _place(sparsity: str, sparsities: Sequence[str]) -> tuple[Style, float]:
    """How a sparsity is drawn, and how far from the middle of a row."""
    if not sparsity:
        return Style(NEUTRAL), 0.0
    number = sparsities.index(sparsity)
    distance = _SPREAD / max(len(sparsities) - 1, 1)
    middle = (len(sparsities) - 1) / 2
    return style_of(number), distance * (number - middle)


def _add_legend(figure: Any, sparsities: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    if not sparsities:
        return
    styles = [_place(sparsity, sparsities)[0] for sparsity in sparsities]
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, linestyle="")
        for each in styles
    ]
    labels = [f"{100 * float(sparsity):g} %" for sparsity in sparsities]
    plain(
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=len(labels),
            fontsize=8,
            frameon=False,
        )
    )


def _shown(variant: str) -> str:
    return variant.replace("_", " ")
