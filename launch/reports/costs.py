"""The table of costs: what is counted and what was measured, dense and sparse."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from launch.cost_model.report import flops_text, seconds_text
from launch.plots.panels import magnitude
from launch.reports.groups import Group
from launch.reports.weights import Weights
from topkast_tf.analysis.memory_report import scaled

Kind = Literal["counted", "simulated", "measured"]


@dataclasses.dataclass(frozen=True)
class CostRow:
    """A row of the table.

    Attributes:
      kind: where the numbers come from.
      name: what they are, with their unit.
      dense: of the dense network; None if it is unknown.
      sparse: of the sparse one.
      shown: formats a number as text.
    """

    kind: Kind
    name: str
    dense: float | None
    sparse: float | None
    shown: Callable[[float], str]

    @property
    def ratio(self) -> float | None:
        """Sparse over dense; None if one of them is unknown.

        >>> CostRow("measured", "seconds", 4.0, 1.0, str).ratio
        0.25
        """
        if self.dense and self.sparse is not None:
            return self.sparse / self.dense
        return None


@dataclasses.dataclass(frozen=True)
class Costed:
    """What the costs of a group are taken from.

    Attributes:
      group: the runs.
      dense: dense runs with the same flags, or None.
      weights: of the last checkpoint of the group, or None.
      unit: what FLOPs are counted for, such as `image`.
    """

    group: Group
    dense: Group | None
    weights: Weights | None
    unit: str


def cost_rows(costed: Costed) -> list[CostRow]:
    """All rows of a group, those of `SOURCES` one after another.

    Args:
      costed: the group.
    """
    return [row for source in SOURCES for row in source(costed)]


def counted(costed: Costed) -> list[CostRow]:
    """Parameters and FLOPs of the dense network and of the sparse one.

    Pruning before training is part of all steps, as in results.csv.
    """
    weights = costed.weights
    rows = []
    if weights is not None:
        rows.append(
            CostRow(
                *("counted", "parameters in a forward pass"),
                *(weights.parameters, weights.kept_parameters),
                _whole,
            )
        )
    if weights is None or weights.flops is None or weights.dense_flops is None:
        return rows
    flops, full = weights.flops, weights.dense_flops
    for name, dense, sparse in (
        (f"inference, each {costed.unit}", full.forward, flops.sparse.forward),
        (f"training, each {costed.unit}", full.training, flops.run.training),
    ):
        rows.append(CostRow("counted", name, dense, sparse, flops_text))
    longest = costed.group.longest
    steps = longest.step
    units = (weights.units_a_step or 0) * steps
    if units:
        before = longest.dense_steps * full.training * (weights.units_a_step or 0)
        rows.append(
            CostRow(
                *("counted", f"training, {steps:,} steps"),
                *(full.training * units, flops.run.training * units + before),
                flops_text,
            )
        )
        selection = flops.selection
        operations = selection.weights * steps + selection.activations * units
        rows.append(
            CostRow(
                *("counted", "operations of selections"),
                *(0.0, operations),
                magnitude,
            )
        )
    return rows


def remembered(costed: Costed) -> list[CostRow]:
    """Memory of training, of dense and sparse weights of the same network."""
    memory = costed.weights.memory if costed.weights else None
    if memory is None:
        return []
    return [
        CostRow(
            *("counted", "memory of a step as run, at most"),
            *(memory.dense_peak, memory.sparse_peak),
            scaled,
        ),
        CostRow(
            *("counted", "memory on a device without zeros"),
            *(memory.dense_device, memory.sparse_device),
            scaled,
        ),
    ]


def simulated(costed: Costed) -> list[CostRow]:
    """Cycles of a training step on an accelerator that skips zeros."""
    cycles = costed.weights.cycles if costed.weights else None
    if cycles is None:
        return []
    return [
        CostRow("simulated", "a step, cycles", cycles.dense, cycles.sparse, _whole),
        CostRow(
            *("simulated", "a step, cycles with memory"),
            *(cycles.dense_with_memory, cycles.sparse_with_memory),
            _whole,
        ),
    ]


def measured(costed: Costed) -> list[CostRow]:
    """Times of the runs, means over their seeds; columns that no run has are left out."""
    rows = []
    for name, column, scale in (
        ("a step, by the clock", "step_ms", 1e-3),
        ("the run, by the clock", "seconds", 1.0),
        ("the run, of all processors", "processor_seconds", 1.0),
    ):
        sparse = costed.group.mean(column)
        dense = costed.dense.mean(column) if costed.dense else None
        if sparse is not None or dense is not None:
            rows.append(
                CostRow(
                    "measured",
                    name,
                    None if dense is None else scale * dense,
                    None if sparse is None else scale * sparse,
                    seconds_text,
                )
            )
    return rows


def _whole(number: float) -> str:
    return f"{number:,.0f}"


SOURCES: tuple[Callable[[Costed], list[CostRow]], ...] = (
    counted,
    remembered,
    simulated,
    measured,
)
"""What fills the table, in the order of its rows; another source is one more entry."""
