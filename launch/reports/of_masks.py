"""The section on how the sets moved while a model trained, from its mask dynamics."""

import math
from collections.abc import Sequence

import numpy as np

from launch.plots import layers
from launch.reports import markup
from launch.reports.groups import Group
from launch.reports.pictures import Pictures
from launch.reports.records import Record
from topkast_tf.analysis.mask_csv import ALL

_MEASURES = (
    ("forward_sparsity", "forward sparsity (%)", 100.0),
    ("backward_sparsity", "backward sparsity (%)", 100.0),
    ("churn", "churn since the last (%)", None),
)
"""Measure -> beside the colours, and the end of their scale; None: by the values."""
_NOTE = (
    "A row is a layer, the first on top. Churn is the share of the forward set A that has "
    "left it since the measurement before."
)


def over_time(groups: Sequence[Group], pictures: Pictures) -> str:
    """Achieved sparsity and churn of each layer over the steps.

    Args:
      groups: the groups.
      pictures: takes the figures.
    """
    parts, any_drawn = [], False
    for number, group in enumerate(group for group in groups if not group.is_dense):
        parts.append(f"<h3>{markup.text(group.label)}</h3>")
        having = [record for record in group.records if record.masks]
        if not having:
            parts.append(markup.paragraph(_absence(group)))
            continue
        any_drawn = True
        parts += _of_group(group.label, having, f"masks-{number}", pictures)
    if not parts:
        sentence = "No run here is sparse, so there are no sets that could move."
        parts.append(markup.paragraph(sentence))
    if any_drawn:
        parts.insert(0, markup.paragraph(_NOTE, "note"))
    return markup.section("masks", "Masks over time", parts)


def _absence(group: Group) -> str:
    every = group.records[0].settings.dynamics_every
    if not every:
        return "These runs kept no mask dynamics, because of --dynamics_every=0."
    return f"No mask dynamics are recorded yet; they are every {every:,} steps."


def _of_group(
    label: str, records: Sequence[Record], name: str, pictures: Pictures
) -> list[str]:
    steps, paths, values = _means(records)
    names = layers.short_names(paths)
    figures = []
    for measure, words, most in _MEASURES:
        shown = 100 * values[measure]
        if not np.isfinite(shown).any():
            continue
        figure = layers.over_time(names, steps, shown, words, most=most)
        alt = (
            f"{words} of {len(paths)} layers of {label} over {len(steps)} measurements, "
            f"between {np.nanmin(shown):.3g} and {np.nanmax(shown):.3g}."
        )
        file = f"{name}-{measure.replace('_', '-')}"
        figures.append(pictures.drawn(figure, file, alt))
    parts = [markup.grid(figures)]
    if len(records) > 1:
        sentence = f"Means over the {len(records)} seeds with mask dynamics."
        parts.append(markup.paragraph(sentence, "note"))
    table = _table(paths, steps, values, label)
    return [*parts, markup.folded("The numbers, layer by layer", table)]


def _means(
    records: Sequence[Record],
) -> tuple[list[int], list[str], dict[str, np.ndarray]]:
    """Steps, weights, and measure -> values [weights, steps], means over the runs."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for record in records:
        for row in record.masks:
            if row.weight != ALL:
                found.setdefault((row.step, row.weight), []).append(row.values)
    steps = sorted({step for step, _ in found})
    paths = list(dict.fromkeys(weight for _, weight in found))
    values = {}
    for measure, _, _ in _MEASURES:
        array = np.full((len(paths), len(steps)), math.nan)
        for (step, weight), rows in found.items():
            finite = [r[measure] for r in rows if math.isfinite(r[measure])]
            if finite:
                array[paths.index(weight), steps.index(step)] = np.mean(finite)
        values[measure] = array
    return steps, paths, values


def _table(
    paths: Sequence[str],
    steps: Sequence[int],
    values: dict[str, np.ndarray],
    label: str,
) -> str:
    heads = ("forward sparsity", "backward sparsity", "churn, mean", "churn, last")
    rows = [("weight", *heads)]
    for place, path in enumerate(paths):
        churn = values["churn"][place]
        moved = churn[np.isfinite(churn)]
        cells = (
            values["forward_sparsity"][place][-1],
            values["backward_sparsity"][place][-1],
            moved.mean() if moved.size else math.nan,
            churn[-1],
        )
        rows.append((path, *(percent(cell) for cell in cells)))
    caption = f"{label}: sparsities at step {steps[-1]:,}, churn between measurements"
    return markup.table(rows, caption)


def percent(share: float) -> str:
    """A share as a percentage; empty for NaN.

    >>> percent(0.1234), percent(math.nan)
    ('12.34%', '')
    """
    return f"{share:.2%}" if math.isfinite(share) else ""
