"""The jobs of a product: sets of rows, which of them are scheduled, how long they take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.operands import operand_lines
from swat_tf.simulator.products import Product, dense_cycles
from swat_tf.simulator.scheduler import ideal_cycles, packed_lines, window_cycles
from swat_tf.simulator.sharing import shared_cycles


@dataclasses.dataclass
class Jobs:
    """The jobs of a product whose zeros are skipped.

    Attributes:
      product: the product.
      count: its jobs: sets of rows, or vectors if rows are free.
      chosen: places of the jobs that are scheduled, all or a sample.
      work: of these, (jobs, rows, lines) of `packed_lines`, or for an ideal interconnect
        (jobs, rows) numbers of values.
      zeros: share of zeros in all vectors.
      times: cycles of the chosen jobs, once they are scheduled.
    """

    product: Product
    count: int
    chosen: np.ndarray
    work: np.ndarray
    zeros: float
    times: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))

    @property
    def is_counted(self) -> bool:
        """Whether the work is numbers of values."""
        return self.work.ndim == 2

    def cycles(
        self, machine: Accelerator, random: np.random.Generator
    ) -> tuple[float, float]:
        """Cycles of the product in dense ones, and the standard error.

        Both are shares of the cycles of the dense product. Jobs that were not scheduled
        take the time of one that was.
        """
        every = np.zeros(self.count, np.int64)
        if len(self.times) < self.count:
            every[:] = random.choice(self.times, self.count)
        every[self.chosen] = self.times
        rows = 1 if machine.synchronised else machine.rows
        by_group = every.reshape(self.product.groups, -1)
        blocks = math.ceil(self.product.others / machine.columns)
        taken = blocks * shared_cycles(by_group, machine.tiles, rows)
        error = 0.0
        if 1 < len(self.times) < self.count:
            share = len(self.times) / self.count
            spread = self.times.std(ddof=1) * math.sqrt((1 - share) / len(self.times))
            workers = min(self.count, machine.tiles * rows)
            error = float(blocks * self.count * spread / workers)
        dense = dense_cycles(self.product, machine)
        return taken / dense, error / dense


def jobs_of(
    layer: Layer,
    of_pass: str,
    product: Product,
    machine: Accelerator,
    mask: np.ndarray,
    *,
    sample: int,
    random: np.random.Generator,
) -> Jobs:
    """The jobs of a product, before they are scheduled.

    Args:
      layer: the layer.
      of_pass: the pass.
      product: one of its products.
      machine: whose rows are synchronised or free.
      mask: of the side that is skipped, as for `operand_lines`.
      sample: lines of rows that are scheduled at most, but at least one job.
      random: draws the jobs.
    """
    fill = not machine.skips_padding
    lines = operand_lines(
        layer, of_pass, product, mask.astype(bool), machine.lanes, fill
    )
    vectors = product.groups * product.vectors
    empty = product.lines(machine.lanes) * machine.lanes
    empty -= product.segments * product.channels
    values = np.count_nonzero(lines) - fill * vectors * empty
    zeros = float(1 - values / (vectors * product.segments * product.channels))
    rows = machine.rows if machine.synchronised else 1
    # Sets do not mix groups, which read different inputs.
    by_group = lines.reshape(product.groups, -1, *lines.shape[1:])
    short = -product.vectors % rows
    if short:
        by_group = np.pad(by_group, ((0, 0), (0, short), (0, 0), (0, 0)))
    sets = by_group.reshape(-1, rows, *lines.shape[1:])
    count, chosen = len(sets), np.arange(len(sets))
    most = max(1, sample // (rows * lines.shape[1]))
    if count > most:
        chosen = np.sort(random.choice(count, most, replace=False))
        sets = sets[chosen]
    is_ideal = machine.interconnect == "ideal"
    work = np.count_nonzero(sets, axis=(2, 3)) if is_ideal else packed_lines(sets)
    return Jobs(product, count, chosen, np.asarray(work), zeros)


def schedule(
    jobs: Sequence[Jobs],
    machine: Accelerator,
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Fills in the times of jobs, of all products together, as that is faster.

    Args:
      jobs: of any number of products.
      machine: the machine that they were made for.
      advanced: as of `window_cycles`.
    """
    waiting = [each for each in jobs if not each.is_counted]
    for each in jobs:
        if each.is_counted:
            each.times = ideal_cycles(each.work, machine.lanes)
    if waiting:
        lines = [each.work for each in waiting]
        found = window_cycles(lines, machine.lanes, machine.places, advanced)
        for each, times in zip(waiting, found, strict=True):
            each.times = times
