"""The report of a simulation: a row for each layer and pass, and totals."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

from swat_tf.simulator.products import FORWARD
from topkast_tf.analysis.columns import aligned

PARTS = ("forward", "backward", "total")
"""What totals are made of; backward is both gradients."""

LEGEND = (
    "Simulated, not measured. counted: dense over remaining multiply-adds; simulated: "
    "dense over compute cycles; cycles, and with memory: the larger of compute and memory "
    "cycles of each pass; used: products without a zero over those that fit into the "
    "cycles."
)
"""What the columns of a table mean."""


@dataclasses.dataclass(frozen=True)
class PassCycles:
    """One pass of a layer in a training step.

    Args:
      layer: its name.
      of_pass: forward, input gradient or weight gradient.
      skipped: the operand whose zeros are skipped; empty if none is.
      zeros: share of its values that are zero, padding included; 0 if none is skipped.
      macs: dense multiply-adds.
      counted_macs: those without the zeros that SWAT leaves out, of the weights, or in the
        weight gradient of the activations, whatever the machine skips.
      dense_cycles: compute cycles if nothing is skipped.
      compute_cycles: compute cycles.
      error: standard error of `compute_cycles` from sampling; 0 if all is scheduled.
      dense_bytes: bytes of traffic if no zero is left out.
      bytes: bytes of traffic.
      dense_memory_cycles: cycles that `dense_bytes` take.
      memory_cycles: cycles that `bytes` take.
      multipliers: of the machine.
    """

    layer: str
    of_pass: str
    skipped: str
    zeros: float
    macs: int
    counted_macs: int
    dense_cycles: int
    compute_cycles: int
    error: float
    dense_bytes: int
    bytes: int
    dense_memory_cycles: int
    memory_cycles: int
    multipliers: int

    @property
    def cycles(self) -> int:
        """The larger of compute and memory cycles: one is hidden behind the other."""
        return max(self.compute_cycles, self.memory_cycles)

    @property
    def dense_whole_cycles(self) -> int:
        """As `cycles`, of the same machine if it skips nothing."""
        return max(self.dense_cycles, self.dense_memory_cycles)

    @property
    def speed_up(self) -> float:
        """Dense over actual compute cycles."""
        return ratio(self.dense_cycles, self.compute_cycles)

    @property
    def counted(self) -> float:
        """Dense over counted multiply-adds."""
        return ratio(self.macs, self.counted_macs)

    @property
    def utilisation(self) -> float:
        """Products without a zero over those that the machine could have computed."""
        return self.macs * (1 - self.zeros) / (max(1, self.cycles) * self.multipliers)

    def as_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return {
            **dataclasses.asdict(self),
            "cycles": self.cycles,
            "counted": self.counted,
            "speed_up": self.speed_up,
            "utilisation": self.utilisation,
        }


def ratio(dense: float, sparse: float) -> float:
    """Dense over sparse cycles; 1 if there are none, infinity if only sparse ones miss."""
    if sparse:
        return dense / sparse
    return 1.0 if not dense else math.inf


@dataclasses.dataclass(frozen=True)
class SimulationReport:
    """The simulated cycles of a training step; `str()` is a table.

    Args:
      rows: a `PassCycles` for each layer and pass.
      batch: examples of the step.
      sampled_examples: the fewest whose activations a layer was given; they stand for
        the batch.
      clock: cycles per second.
    """

    rows: tuple[PassCycles, ...]
    batch: int
    sampled_examples: int
    clock: float

    def part(self, name: str) -> tuple[PassCycles, ...]:
        """The rows of ``"forward"``, ``"backward"`` (both gradients) or ``"total"``.

        Raises:
          ValueError: for another name.
        """
        if name not in PARTS:
            raise ValueError(
                f"Expected `name` to be one of {', '.join(PARTS)}. "
                f"Received: name={name!r}"
            )
        if name == "total":
            return self.rows
        wanted = name == "forward"
        return tuple(row for row in self.rows if (row.of_pass == FORWARD) == wanted)

    def cycles(
        self, part: str = "total", *, dense: bool = False, memory: bool = False
    ) -> int:
        """Cycles of a step.

        Args:
          part: as of `part`.
          dense: whether they are those of the same machine if it skips nothing.
          memory: whether each pass takes the larger of compute and memory cycles, and
            not the compute cycles alone.
        """
        names = {
            (False, False): "compute_cycles",
            (False, True): "cycles",
            (True, False): "dense_cycles",
            (True, True): "dense_whole_cycles",
        }
        return sum(getattr(row, names[dense, memory]) for row in self.part(part))

    def speed_up(self, part: str = "total", *, memory: bool = False) -> float:
        """Dense over actual cycles; arguments as of `cycles`."""
        return ratio(
            self.cycles(part, dense=True, memory=memory),
            self.cycles(part, memory=memory),
        )

    def counted(self, part: str = "total") -> float:
        """Dense over counted multiply-adds: the speed-up if every zero saved its time."""
        rows = self.part(part)
        return ratio(sum(row.macs for row in rows), sum(r.counted_macs for r in rows))

    def error(self, part: str = "total") -> float:
        """Standard error of `speed_up` from sampling; 0 if everything is scheduled."""
        cycles = self.cycles(part)
        if not cycles:
            return 0.0
        errors = (row.error for row in self.part(part))
        return self.speed_up(part) * math.hypot(*errors) / cycles

    def as_dict(self) -> dict[str, Any]:
        """Totals and rows, as JSON can hold them."""
        return {
            "batch": self.batch,
            "sampled_examples": self.sampled_examples,
            "clock": self.clock,
            "parts": {
                part: {
                    "dense_cycles": self.cycles(part, dense=True),
                    "compute_cycles": self.cycles(part),
                    "cycles": self.cycles(part, memory=True),
                    "bytes": sum(row.bytes for row in self.part(part)),
                    "counted": self.counted(part),
                    "speed_up": self.speed_up(part),
                    "speed_up_with_memory": self.speed_up(part, memory=True),
                    "standard_error": self.error(part),
                }
                for part in PARTS
            },
            "rows": [row.as_dict() for row in self.rows],
        }

    def table(self, most: int | None = None) -> str:
        """A line for each layer and pass, and the totals; `LEGEND` explains the columns.

        Args:
          most: how many layers are shown, those with the most dense cycles; None: all.
        """
        by_layer: Counter[str] = Counter()
        for row in self.rows:
            by_layer[row.layer] += row.dense_cycles
        shown = {name for name, _ in by_layer.most_common(most)}
        header = ("layer", "pass", "zeros", "dense", "compute", "memory", "cycles")
        table: list[tuple[str, ...]] = [
            (*header, "counted", "simulated", "used", "MB"),
            *(
                (
                    row.layer.removesuffix("/kernel"),
                    row.of_pass,
                    f"{row.zeros:.3f}",
                    *_figures([row]),
                )
                for row in self.rows
                if row.layer in shown
            ),
            *(
                (f"all {len(by_layer)} layers", part, "", *_figures(self.part(part)))
                for part in PARTS
            ),
        ]
        lines = aligned(table, left=(0, 1))
        rule = "-" * max(map(len, lines))
        lines.insert(1, rule)
        lines.insert(len(lines) - len(PARTS), rule)
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """Sentences on the step, and on what stands for it."""
        times = [
            _milliseconds(self.cycles(dense=dense, memory=True) / self.clock)
            for dense in (False, True)
        ]
        found = [
            f"A step of {_examples(self.batch)} takes {times[0]} at "
            f"{self.clock / 1e9:g} GHz, {times[1]} if zeros are multiplied; with "
            f"memory: {', '.join(map(self._with_memory, PARTS))}."
        ]
        if self.sampled_examples < self.batch:
            known = _examples(self.sampled_examples)
            found.append(
                f"Of each layer, the activations of at least {known} stand for those of "
                f"all {self.batch:,}."
            )
        if self.error():
            found.append(
                "Not all sets were scheduled: standard error of the total speed-up "
                f"{self.error():.3f}."
            )
        return found

    def __str__(self) -> str:
        return "\n".join([self.table(), *map(textwrap.fill, [*self.notes(), LEGEND])])

    def _with_memory(self, part: str) -> str:
        return f"{part} {self.speed_up(part, memory=True):.2f}x"


def _milliseconds(seconds: float) -> str:
    found = 1e3 * seconds
    return f"{found:.3g} ms" if found < 999.5 else f"{found:,.0f} ms"


def _examples(count: int) -> str:
    return "one example" if count == 1 else f"{count:,} examples"


def _short(layer: str) -> str:
    """The path of a kernel without its last part, which all have."""
    return layer.removesuffix("/kernel")


def _figures(rows: Iterable[PassCycles]) -> tuple[str, ...]:
    rows = tuple(rows)
    names = (
        *("dense_cycles", "compute_cycles", "memory_cycles", "cycles"),
        *("bytes", "macs", "counted_macs"),
    )
    sums = {name: sum(getattr(row, name) for row in rows) for name in names}
    useful = sum(row.macs * (1 - row.zeros) for row in rows)
    room = max(1, sums["cycles"]) * (rows[0].multipliers if rows else 1)
    return (
        *(f"{sums[name]:,}" for name in names[:4]),
        f"{ratio(sums['macs'], sums['counted_macs']):.2f}x",
        f"{ratio(sums['dense_cycles'], sums['compute_cycles']):.2f}x",
        f"{useful / room:.1%}",
        f"{sums['bytes'] / 1e6:.2f}",
    )
