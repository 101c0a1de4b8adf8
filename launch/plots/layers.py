"""Figures of the layers of a network: sets over time, sparsity and FLOPs of each."""

import os.path
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.plots.colours import (
    BACKWARD,
    FORWARD,
    INK,
    NEUTRAL,
    SEQUENTIAL,
    SERIES,
)
from launch.plots.panels import STEPS, WIDTH, magnitude, panels

_ROW, _FRAME = 0.2, 0.95
_TALLEST = 8.0
_LONGEST = 28


def short_names(paths: Sequence[str]) -> list[str]:
    """The parts of paths in which they differ, cut to a length that fits beside a plot.

    >>> short_names(["net/conv_1/kernel", "net/head/kernel"])
    ['conv_1', 'head']
    >>> short_names(["net/a/kernel", "net/b/kernel", "(activations)"])
    ['a', 'b', '(activations)']
    >>> short_names(["dense/kernel"]), short_names(["stem/kernel", "stage/kernel"])
    (['dense'], ['stem', 'stage'])
    """
    ends = [path.removesuffix("/kernel") for path in paths]
    if len(set(ends)) == len(set(paths)):
        paths = ends
    # Products of activations have a name, such as "(activations)", and no folder.
    folders = [path[: path.rfind("/") + 1] for path in paths if path[:1] != "("]
    shared = os.path.commonprefix(folders)
    shared = shared[: shared.rfind("/") + 1]
    return [_cut(path.removeprefix(shared)) for path in paths]


def _cut(name: str) -> str:
    """A name without its middle if it is too long: names differ at both ends."""
    if len(name) <= _LONGEST:
        return name
    end = _LONGEST // 2
    return f"{name[: _LONGEST - end - 1]}…{name[-end:]}"


def over_time(
    names: Sequence[str],
    steps: Sequence[int],
    values: np.ndarray,
    label: str,
    *,
    most: float | None = None,
) -> Any:
    """A map of a measure: a row for each layer, a column for each step of measurement.

    Args:
      names: of the layers.
      steps: of the measurements, rising.
      values: of shape [layers, steps], in percent; NaN where there is none.
      label: of the colours.
      most: the end of their scale; default by the values.

    Returns:
      The figure.
    """
    figure, axes = _rows_of(names)
    edges = _edges(steps)
    top = most if most is not None else float(np.nanmax(values, initial=0.0))
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=top or 1,
        rasterized=True,
    )
    axes.grid(False)
    axes.set_xlabel("optimizer step")
    aspect = 10 * figure.get_figheight()  # of one width, however many layers there are
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.045, aspect=aspect)
    bar.solids.set_rasterized(True)
    bar.set_label(label, color=INK, fontsize=10)
    bar.ax.tick_params(color=INK, labelcolor=INK, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def sparsities(
    names: Sequence[str], forward: Sequence[float], backward: Sequence[float]
) -> Any:
    """The achieved sparsities of each layer.

    Args:
      names: of the layers.
      forward: fractions of zeros in the forward pass.
      backward: fractions of entries without an update.

    Returns:
      The figure.
    """
    figure, axes = _rows_of(names)
    rows = range(len(names))
    forward, backward = (100 * np.asarray(part) for part in (forward, backward))
    axes.hlines(rows, backward, forward, color=NEUTRAL, linewidth=1)
    axes.plot(forward, rows, "o", color=FORWARD, label="forward sparsity", markersize=6)
    axes.plot(
        backward, rows, "D", color=BACKWARD, label="backward sparsity", markersize=4
    )
    axes.set_xlim(-3, 103)
    axes.set_xlabel("achieved sparsity (%)")
    return figure


def bars(
    names: Sequence[str], dense: Sequence[float], sparse: Sequence[float], label: str
) -> Any:
    """A number of each layer, dense and sparse, as two bars in one row.

    Args:
      names: of the layers.
      dense: without sparsity.
      sparse: at the achieved sparsities.
      label: what stands below.

    Returns:
      The figure.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = _rows_of(names)
    rows = np.arange(len(names))
    axes.barh(rows, dense, 0.72, color=NEUTRAL, alpha=0.35, label="dense")
    axes.barh(rows, sparse, 0.4, color=SERIES[0], label="sparse")
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: magnitude(x)))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    return figure


def _rows_of(names: Sequence[str]) -> tuple[Any, Any]:
    height = min(_TALLEST, max(2.2, _FRAME + _ROW * len(names)))
    figure, [axes] = panels(1, (WIDTH, height))
    size = min(9.0, 72 * (height - _FRAME) / max(1, len(names)) * 0.85)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first layer on top
    axes.grid(False, axis="y")
    return figure, axes


def _edges(steps: Sequence[int]) -> np.ndarray:
    """The limits of the columns: halfway between two measurements."""
    at = np.asarray(steps, float)
    if len(at) == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5])
    between = (at[1:] + at[:-1]) / 2
    first, last = 2 * at[0] - between[0], 2 * at[-1] - between[-1]
    return np.concatenate([[first], between, [last]])
