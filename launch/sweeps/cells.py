"""The runs of a sweep by variant and sparsity."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.sweeps.results import Row

RATIO = "training_flops_ratio"
"""Counted FLOPs of a whole run over those of the dense network."""
_TOTAL = "training_flops_total"


class Cell(NamedTuple):
    """The runs of a variant at a sparsity.

    Attributes:
      variant: its name.
      sparsity: as text; empty for a variant that has none.
      values: seed -> the metric, of runs that did not diverge.
      lost: how many runs have no finite metric.
      rows: all of them.
    """

    variant: str
    sparsity: str
    values: dict[str, float]
    lost: int
    rows: list[Row]


def over_dense(rows: Sequence[Row]) -> list[Row]:
    """The rows with `RATIO` over the dense run of the sweep, if it has one.

    In its own row, a smaller dense network is compared with itself, and has a ratio of 1.
    """
    dense = [_number(row.get(_TOTAL)) for row in rows if row.get("method") == "dense"]
    if not dense or not math.isfinite(dense[0]):
        return list(rows)
    found = []
    for row in rows:
        total = _number(row.get(_TOTAL))
        ratio = {RATIO: f"{total / dense[0]:.6g}"} if math.isfinite(total) else {}
        found.append({**row, **ratio})
    return found


def cells(rows: Sequence[Row], metric: str) -> list[Cell]:
    """The rows by variant and sparsity, in the order of the CSV."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["sparsity"]), []).append(row)
    made = []
    for (variant, sparsity), own in found.items():
        values = {row["seed"]: _number(row.get(metric)) for row in own}
        finite = {seed: v for seed, v in values.items() if math.isfinite(v)}
        made.append(Cell(variant, sparsity, finite, len(own) - len(finite), own))
    return made


def paired(cell: Cell, baseline: Cell) -> list[float]:
    """The differences to a baseline, seed by seed, of the seeds that both have."""
    shared = [seed for seed in cell.values if seed in baseline.values]
    return [cell.values[seed] - baseline.values[seed] for seed in shared]


def mean_of(cell: Cell, column: str) -> float:
    """The mean of a column over its runs; NaN if it has no numbers."""
    values = [_number(row.get(column)) for row in cell.rows]
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
