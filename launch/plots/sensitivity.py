"""The figures of the sensitivity study: accuracy over sparsity, and the ablations."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from launch.plots.panels import band, panels, save
from launch.studies.runs import FIGURES
from launch.studies.table import STATISTICS, accuracies, diverged, mean, settings

_LABELS = {
    "forward_weights": "sparse weights",
    "forward_activations": "sparse activations",
    "backward_weights_activations": "sparse weights and activations",
    "backward_errors": "sparse error gradients",
    "masked_updates": "masked updates",
    "freeze": "frozen from step",
    "period": "period",
}
_PANELS = (
    ("forward pass sparse, backward dense", FIGURES[:2]),
    ("backward pass sparse, forward dense", FIGURES[2:]),
)


def draw(rows: Sequence[dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """Plots the results; lines are means over seeds, bands the range over seeds.

    Runs that have diverged have no accuracy and are left out of the means. A cross at the
    lower or left edge gives their number. If all runs have diverged, the line has a gap.

    Args:
      rows: from `launch.studies.results.read`.
      folder: the folder for figures.png and ablations.png.

    Returns:
      The files that were written.
    """
    drawn = []
    present = {row["study"] for row in rows}
    if present & set(FIGURES):
        figure, both = panels(2, (4.5, 3.6), same_y=True)
        for axes, (title, studies) in zip(both, _PANELS, strict=True):
            for number, study in enumerate(studies):
                _band(axes, rows, study, number)
            dense = accuracies(rows, study="dense")
            if dense:  # empty if all have diverged
                axes.axhline(mean(dense), color="grey", ls="--", label="dense")
                axes.axhspan(min(dense), max(dense), color="grey", alpha=0.15)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("sparsity (%)")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8)
        both[0].set_ylabel("test accuracy (%)")
        drawn.append(save(figure, folder / "figures.png"))
    ablations = [s for s in settings(rows) if s[0] not in (*FIGURES, "dense")]
    if ablations:
        figure, [axes] = panels(1, (6, 0.6 + 0.35 * (len(ablations) + 1)))
        dense = [("dense", 0.0, 0.0)] if "dense" in present else []
        for place, (study, sparsity, value) in enumerate([*dense, *ablations]):
            found = accuracies(rows, study=study, sparsity=sparsity, value=value)
            axes.plot(found, [place] * len(found), "o", ms=4)
            if found:
                axes.plot([min(found), max(found)], [place, place], color="grey", lw=1)
            lost = diverged(rows, study=study, sparsity=sparsity, value=value)
            if lost:
                _cross(axes, 0.02, place, lost, axes.get_yaxis_transform(), "red")
        axes.set_yticks(
            range(len(dense) + len(ablations)),
            ["dense"] * len(dense) + [_name(*setting) for setting in ablations],
        )
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%), each seed")
        drawn.append(save(figure, folder / "ablations.png"))
    return drawn


def _name(study: str, sparsity: float, value: float) -> str:
    shown = f" {value:.0f}" if value else ""
    return f"{_LABELS.get(study, study)}{shown}, {sparsity:.0%}"


def _band(axes: Any, rows: Sequence[dict], study: str, number: int) -> None:
    sparsities = sorted({r["sparsity"] for r in rows if r["study"] == study})
    if not sparsities:
        return
    found = [accuracies(rows, study=study, sparsity=s) for s in sparsities]
    x = [100 * s for s in sparsities]
    means, lowest, highest = (
        [function(values) if values else math.nan for values in found]
        for function in STATISTICS
    )
    [line] = axes.plot(x, means, "o-", ms=4, label=_LABELS[study])
    band(axes, x, lowest, highest, line.get_color())
    for sparsity in sparsities:
        lost = diverged(rows, study=study, sparsity=sparsity)
        if lost:
            # Crosses at the same sparsity are stacked.
            height = 0.04 + 0.07 * number
            transform = axes.get_xaxis_transform()
            _cross(axes, 100 * sparsity, height, lost, transform, line.get_color())


def _cross(
    axes: Any, x: float, y: float, lost: str, transform: Any, colour: str
) -> None:
    """Plots a cross for runs that have diverged."""
    axes.plot(x, y, "x", color=colour, ms=7, mew=2, transform=transform, clip_on=False)
    is_right = transform == axes.get_yaxis_transform()
    axes.annotate(
        f"{lost} diverged",
        (x, y),
        xycoords=transform,
        xytext=(6 if is_right else -6, 0),
        textcoords="offset points",
        ha="left" if is_right else "right",
        va="center",
        fontsize=7,
        color=colour,
    )
