"""Histograms of the values of a weight, set by set."""

from typing import Any

import numpy as np

from launch.plots.colours import BACKWARD, FORWARD, RESERVOIR
from launch.plots.panels import panels
from topkast_tf.core import sets

_BINS = 48
SETS = (
    ("kept", "A, kept", FORWARD),
    ("explored", "B \\ A, updated", BACKWARD),
    ("reservoir", "C, the reservoir", RESERVOIR),
)
"""Set -> its name in the legend, and its colour."""


def by_set(theta: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """The values of a weight, set by set, by the keys of `SETS`.

    Args:
      theta: its entries.
      codes: its sets, of the same shape: 0 for C, 1 for B \\ A, 2 for A.

    >>> by_set(np.array([3.0, 5.0]), np.array([2, 0]))["kept"]
    array([3.])
    """
    of_set = {
        "kept": sets.FORWARD,
        "explored": sets.BACKWARD_ONLY,
        "reservoir": sets.RESERVOIR,
    }
    return {name: theta[codes == code] for name, code in of_set.items()}


def draw(values: dict[str, np.ndarray], title: str) -> Any:
    """Bars of the number of entries by value; a set without entries has none.

    The number is on a logarithmic axis, because the reservoir may be a hundred times as
    large as the kept set. Bars of different sets at one value are not stacked.

    Args:
      values: the keys of `SETS` -> values of the entries, of any shape.
      title: of the panel.

    Returns:
      The figure.
    """
    from matplotlib.ticker import NullLocator

    figure, [axes] = panels(1, (3.4, 2.3))
    every = np.concatenate([np.ravel(values[name]) for name, _, _ in SETS])
    end = float(np.abs(every).max(initial=0.0)) or 1.0
    edges = np.linspace(-end, end, _BINS + 1)
    for place, (name, label, colour) in enumerate(SETS):
        if np.size(values[name]):
            counts, _ = np.histogram(values[name], edges)
            axes.stairs(
                counts,
                edges,
                fill=True,
                color=colour,
                alpha=0.6,
                label=label,
                zorder=3 - place / 10,  # the largest set is behind the others
            )
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0.7)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel("value of theta")
    axes.set_ylabel("entries")
    return figure
