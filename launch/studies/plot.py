"""The figures and the table of the sensitivity study, from its results."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from launch.storage.report import aligned
from launch.studies.runs import FIGURES

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


def _matching(rows: Sequence[dict], **asked: Any) -> list[dict]:
    return [
        row for row in rows if all(row[name] == value for name, value in asked.items())
    ]


def _of(rows: Sequence[dict], **asked: Any) -> list[float]:
    """The accuracies, in percent, of the runs that have not diverged."""
    return [100 * row["test_accuracy"] for row in _matching(rows, diverged=0, **asked)]


def _lost(rows: Sequence[dict], **asked: Any) -> str:
    """The number of diverged runs and of all runs; empty if none has diverged."""
    every = _matching(rows, **asked)
    lost = len(_matching(every, diverged=1))
    return f"{lost} of {len(every)}" if lost else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_FIGURES = (_mean, min, max)


def _settings(rows: Sequence[dict]) -> list[tuple]:
    """The distinct (study, sparsity, value) of all rows, in order."""
    found = dict.fromkeys((r["study"], r["sparsity"], r["value"]) for r in rows)
    return list(found)


def table(rows: Sequence[dict]) -> str:
    """Mean and range over seeds of each setting, as text.

    Args:
      rows: from `launch.studies.results.read`.
    """
    heads = ("study", "sparsity", "seeds", "mean", "lowest", "highest")
    lost_too = bool(_matching(rows, diverged=1))
    found = [(*heads, "diverged")[: None if lost_too else -1]]
    for study, sparsity, value in _settings(rows):
        here = {"study": study, "sparsity": sparsity, "value": value}
        accuracies = _of(rows, **here)
        figures = [function(accuracies) for function in _FIGURES] if accuracies else []
        cells = [
            f"{study} {value:.0f}" if value else study,
            f"{sparsity:.2f}",
            str(len(_matching(rows, **here))),
            *([f"{figure:.2f}%" for figure in figures] or [""] * len(_FIGURES)),
        ]
        found.append((*cells, *([_lost(rows, **here)] if lost_too else [])))
    return "test accuracy over the seeds\n" + aligned(found)


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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    present = {row["study"] for row in rows}
    if present & set(FIGURES):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
        for axes, (title, studies) in zip(panels, _PANELS, strict=True):
            for number, study in enumerate(studies):
                _band(axes, rows, study, number)
            dense = _of(rows, study="dense")
            if dense:  # empty if all have diverged
                axes.axhline(_mean(dense), color="grey", ls="--", label="dense")
                axes.axhspan(min(dense), max(dense), color="grey", alpha=0.15)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("sparsity (%)")
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8)
        panels[0].set_ylabel("test accuracy (%)")
        drawn.append(_saved(figure, folder / "figures.png"))
    ablations = [s for s in _settings(rows) if s[0] not in (*FIGURES, "dense")]
    if ablations:
        figure, axes = plt.subplots(figsize=(6, 0.6 + 0.35 * (len(ablations) + 1)))
        dense = [("dense", 0.0, 0.0)] if "dense" in present else []
        for place, (study, sparsity, value) in enumerate([*dense, *ablations]):
            found = _of(rows, study=study, sparsity=sparsity, value=value)
            axes.plot(found, [place] * len(found), "o", ms=4)
            if found:
                axes.plot([min(found), max(found)], [place, place], color="grey", lw=1)
            lost = _lost(rows, study=study, sparsity=sparsity, value=value)
            if lost:
                _cross(axes, 0.02, place, lost, axes.get_yaxis_transform(), "red")
        axes.set_yticks(
            range(len(dense) + len(ablations)),
            ["dense"] * len(dense) + [_name(*setting) for setting in ablations],
        )
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%), each seed")
        axes.grid(alpha=0.3)
        drawn.append(_saved(figure, folder / "ablations.png"))
    return drawn


def _name(study: str, sparsity: float, value: float) -> str:
    shown = f" {value:.0f}" if value else ""
    return f"{_LABELS.get(study, study)}{shown}, {sparsity:.0%}"


def _band(axes: Any, rows: Sequence[dict], study: str, number: int) -> None:
    sparsities = sorted({r["sparsity"] for r in rows if r["study"] == study})
    if not sparsities:
        return
    found = [_of(rows, study=study, sparsity=s) for s in sparsities]
    x = [100 * s for s in sparsities]
    means, lowest, highest = (
        [function(values) if values else math.nan for values in found]
        for function in _FIGURES
    )
    [line] = axes.plot(x, means, "o-", ms=4, label=_LABELS[study])
    axes.fill_between(x, lowest, highest, color=line.get_color(), alpha=0.2)
    for sparsity in sparsities:
        lost = _lost(rows, study=study, sparsity=sparsity)
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


def _saved(figure: Any, path: pathlib.Path) -> pathlib.Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return path
