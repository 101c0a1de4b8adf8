"""The figures and the table of the sensitivity study, from its results."""

import pathlib
from collections.abc import Sequence
from typing import Any

from launch.studies import FIGURES

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


def _of(rows: Sequence[dict], **asked: Any) -> list[float]:
    return [
        100 * row["test_accuracy"]
        for row in rows
        if all(row[name] == value for name, value in asked.items())
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _settings(rows: Sequence[dict]) -> list[tuple]:
    """(study, sparsity, value) of all rows, each once, in their order."""
    found = dict.fromkeys((r["study"], r["sparsity"], r["value"]) for r in rows)
    return list(found)


def table(rows: Sequence[dict]) -> str:
    """Mean and range over seeds of each setting, as text.

    Args:
      rows: as `sensitivity.read` gives them.
    """
    lines = [
        f"{'study':30} {'sparsity':>8} {'value':>6} {'seeds':>5} "
        f"{'test accuracy: mean':>20} {'lowest':>8} {'highest':>8} {'diverged':>8}"
    ]
    for study, sparsity, value in _settings(rows):
        found = _of(rows, study=study, sparsity=sparsity, value=value)
        shown = f"{value:.0f}" if value else ""
        here = {"study": study, "sparsity": sparsity, "value": value}
        lost = len(_of(rows, diverged=1.0, **here))
        lines.append(
            f"{study:30} {sparsity:8.2f} {shown:>6} {len(found):5} "
            f"{_mean(found):19.2f}% {min(found):7.2f}% {max(found):7.2f}% {lost or '':>8}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws what there is; lines are means over seeds, bands reach from lowest to highest.

    Args:
      rows: as `sensitivity.read` gives them.
      folder: gets figures.png and ablations.png.

    Returns:
      The files that were drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    present = {row["study"] for row in rows}
    if present & set(FIGURES):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
        for axes, (title, studies) in zip(panels, _PANELS, strict=True):
            for study in studies:
                _band(axes, rows, study)
            dense = _of(rows, study="dense")
            if dense:
                axes.axhline(_mean(dense), color="grey", ls="--", label="dense")
                axes.axhspan(min(dense), max(dense), color="grey", alpha=0.15)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("sparsity (%)")
            axes.grid(alpha=0.3)
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
            axes.plot([min(found), max(found)], [place, place], color="grey", lw=1)
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


def _band(axes: Any, rows: Sequence[dict], study: str) -> None:
    sparsities = sorted({r["sparsity"] for r in rows if r["study"] == study})
    if not sparsities:
        return
    found = [_of(rows, study=study, sparsity=s) for s in sparsities]
    x = [100 * s for s in sparsities]
    [line] = axes.plot(x, list(map(_mean, found)), "o-", ms=4, label=_LABELS[study])
    lowest, highest = list(map(min, found)), list(map(max, found))
    axes.fill_between(x, lowest, highest, color=line.get_color(), alpha=0.2)


def _saved(figure: Any, path: pathlib.Path) -> pathlib.Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return path
