"""What counted memory is made of, and the table of it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from topkast_tf.analysis.columns import aligned


@dataclass(frozen=True)
class Bytes:
    """Bytes by what they are used for.

    Attributes:
      parameters: weights; of packed weights theta and the entries of B.
      sets: codes, bit masks or indices of the sets, counters, and what else a method keeps.
      slots: of the optimizer.
      plans: of native kernels.
      gradients: of the parameters.
      copies: weights made anew in each step and kept for its backward pass, such as alpha.
      activations: tensors of the forward pass that the backward pass reads.

    >>> (Bytes(parameters=4, slots=8) + Bytes(parameters=1, gradients=2)).total
    15
    """

    parameters: int = 0
    sets: int = 0
    slots: int = 0
    plans: int = 0
    gradients: int = 0
    copies: int = 0
    activations: int = 0

    @property
    def held(self) -> int:
        """What stays from step to step: parameters, sets, slots and plans."""
        return self.parameters + self.sets + self.slots + self.plans

    @property
    def total(self) -> int:
        """All of them."""
        return self.held + self.gradients + self.copies + self.activations

    def __add__(self, other: Bytes) -> Bytes:
        names = (each.name for each in dataclasses.fields(self))
        return Bytes(*(getattr(self, n) + getattr(other, n) for n in names))


@dataclass(frozen=True)
class MemoryRow:
    """One line of a `MemoryReport`: a layer, or ``"(optimizer)"``, ``"(step)"``.

    Args:
      path: of the layer.
      as_run: in this process; what is in files is not in it.
      on_sparse_device: on a device that stores sparse tensors as such.
      on_host: on the host of that device.
      in_files: bytes of theta and the sets in mapped files (`theta_dir`).
    """

    path: str
    as_run: Bytes = Bytes()
    on_sparse_device: Bytes = Bytes()
    on_host: Bytes = Bytes()
    in_files: int = 0


@dataclass(frozen=True)
class MemoryReport:
    """Counted bytes of training a model, layer by layer; `str()` is a table.

    Args:
      rows: one `MemoryRow` a layer with weights or saved tensors.
      step: bytes of all tensors of a step at the moment when they are most; see `peak`.
      selecting_step: the same of a step that selects sets.
      step_parts: what they are then: ``"activations"``, ``"copies"``, ``"gradients"``,
        and ``"working"`` for tensors that are soon freed.
      uncounted: operations whose memory is not known, so that totals are lower bounds.
    """

    rows: tuple[MemoryRow, ...]
    step: int = 0
    selecting_step: int = 0
    step_parts: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()

    @property
    def as_run(self) -> Bytes:
        """All layers together, as this process holds them."""
        return sum((row.as_run for row in self.rows), Bytes())

    @property
    def on_sparse_device(self) -> Bytes:
        """All layers together, on a device that stores sparse tensors as such."""
        return sum((row.on_sparse_device for row in self.rows), Bytes())

    @property
    def on_host(self) -> Bytes:
        """What the host of that device holds."""
        return sum((row.on_host for row in self.rows), Bytes())

    @property
    def in_files(self) -> int:
        """Bytes in mapped files."""
        return sum(row.in_files for row in self.rows)

    @property
    def peak(self) -> int:
        """The most memory of a step as run: what is held, and its tensors.

        ``as_run.held + step``. Less than ``as_run.total`` where gradients and activations
        are not all there at once, and more by working memory.
        """
        return self.as_run.held + self.step

    @property
    def selecting_peak(self) -> int:
        """The most memory of a step that selects sets, as run."""
        return self.as_run.held + self.selecting_step

    def __str__(self) -> str:
        names = [each.name for each in dataclasses.fields(Bytes)]
        table: list[tuple[str, ...]] = [
            ("layer", *names, "as run", "sparse device", "its host")
        ]
        for row in (*self.rows, self._sum()):
            table.append(
                (
                    row.path,
                    *(scaled(getattr(row.as_run, name)) for name in names),
                    scaled(row.as_run.total),
                    scaled(row.on_sparse_device.total),
                    scaled(row.on_host.total),
                )
            )
        lines = aligned(table)
        rule = "-" * max(map(len, lines))
        lines.insert(1, rule)
        lines.insert(-1, rule)
        lines.append(
            f"peak of a step as run: {scaled(self.peak)}, of which "
            f"{scaled(self.as_run.held)} are held from step to step"
        )
        parts = [f"{scaled(n)} {name}" for name, n in self.step_parts.items() if n]
        if parts:
            lines.append(f"tensors at that moment: {', '.join(parts)}")
        if self.selecting_step > self.step:
            lines.append(f"peak of a step that selects: {scaled(self.selecting_peak)}")
        if self.in_files:
            lines.append(f"in files, beside that: {scaled(self.in_files)}")
        if self.uncounted:
            lines.append(f"NOT counted, so lower bounds: {', '.join(self.uncounted)}")
        return "\n".join(lines)

    def _sum(self) -> MemoryRow:
        return MemoryRow("all", self.as_run, self.on_sparse_device, self.on_host)


def scaled(count: float) -> str:
    """A number of bytes, in powers of 1000.

    >>> scaled(1_500_000), scaled(12)
    ('1.50 MB', '12 B')
    """
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count:.0f} B" if count else "-"
