"""One pass of a layer on a machine: what it skips, its cycles and its traffic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.jobs import Jobs, jobs_of
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.memory import stored_bytes, traffic
from swat_tf.simulator.products import (
    FORWARD,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    dense_cycles,
    products_of,
)
from swat_tf.simulator.report import PassCycles
from swat_tf.simulator.systolic import SystolicArray

Masks = Mapping[str, np.ndarray]


def pass_of(
    layer: Layer,
    of_pass: str,
    machine: Accelerator | SystolicArray,
    weights: Masks,
    activations: Masks,
    *,
    sample: int,
    random: np.random.Generator,
) -> Pass:
    """A pass of a layer, with the jobs of its products, which wait to be scheduled.

    Args:
      layer: the layer.
      of_pass: one of `PASSES`.
      machine: what computes it.
      weights: as of `swat_tf.simulator.simulate`.
      activations: likewise.
      sample: lines of rows that are scheduled for each product.
      random: draws the samples.
    """
    given = len(activations[layer.name]) if layer.name in activations else 1
    side = _side(layer, of_pass, machine, weights, activations)
    masks = activations if side == "activations" else weights
    mask = masks.get(layer.name) if side else None
    if mask is None and side and _skips_padding(machine):
        mask = _dense_mask(layer, side, given)
    jobs = None
    if mask is not None and isinstance(machine, Accelerator):
        jobs = [
            jobs_of(
                layer, of_pass, product, machine, mask, sample=sample, random=random
            )
            for product in products_of(layer, of_pass, given, side)
        ]
    sparse = activations if of_pass == WEIGHT_GRADIENT else weights
    return Pass(layer, of_pass, side, mask, jobs, _zeros(sparse.get(layer.name)), given)


@dataclasses.dataclass
class Pass:
    """One pass of a layer.

    Attributes:
      layer: the layer.
      of_pass: the pass.
      side: the operand whose zeros are skipped; None: none is.
      mask: of that side; None: it has no zeros.
      jobs: of each product; None: nothing is skipped.
      counted_zeros: share of zeros of the operand that SWAT makes sparse in this pass.
      given: examples whose activations are known.
    """

    layer: Layer
    of_pass: str
    side: str | None
    mask: np.ndarray | None
    jobs: list[Jobs] | None
    counted_zeros: float
    given: int

    def cycles(
        self,
        machine: Accelerator | SystolicArray,
        batch: int,
        random: np.random.Generator,
    ) -> PassCycles:
        """The row of the report, for a batch."""
        products = products_of(self.layer, self.of_pass, batch, self.side)
        dense = [dense_cycles(product, machine) for product in products]
        macs = sum(product.macs for product in products)
        compute, error, kept = sum(dense), 0.0, float(macs)
        if self.jobs is not None and isinstance(machine, Accelerator):
            # The examples that are known stand for the batch.
            shares = [each.cycles(machine, random) for each in self.jobs]
            pairs = list(zip(dense, shares, strict=True))
            compute = sum(round(whole * share) for whole, (share, _) in pairs)
            error = math.hypot(*(whole * each for whole, (_, each) in pairs))
            kept = sum(
                product.macs * (1 - each.zeros)
                for product, each in zip(products, self.jobs, strict=True)
            )
        dense_bytes, own_bytes = self._bytes(machine, batch)
        per_byte = machine.clock / machine.memory.bandwidth
        return PassCycles(
            layer=self.layer.name,
            of_pass=self.of_pass,
            skipped=self.side or "",
            # An input gradient that no position takes part in has no product.
            zeros=1 - kept / macs if macs else 0.0,
            macs=macs,
            counted_macs=round(macs * (1 - self.counted_zeros)),
            dense_cycles=sum(dense),
            compute_cycles=compute,
            error=error,
            dense_bytes=dense_bytes,
            bytes=own_bytes,
            dense_memory_cycles=math.ceil(dense_bytes * per_byte),
            memory_cycles=math.ceil(own_bytes * per_byte),
            multipliers=machine.multipliers,
        )

    def _bytes(
        self, machine: Accelerator | SystolicArray, batch: int
    ) -> tuple[int, int]:
        """Traffic without and with the zeros of the skipped side left out."""
        layer, memory = self.layer, machine.memory
        entries = {
            "weights": math.prod(layer.kernel),
            "activations": batch * math.prod(layer.inputs) * layer.channels,
            "error": batch * layer.positions * layer.kernel[-1],
        }
        dense = {
            name: math.ceil(count * machine.value_bits / 8)
            for name, count in entries.items()
        }
        actual = dict(dense)
        if (
            self.side
            and self.mask is not None
            and isinstance(machine, Accelerator)  # the only one that skips
        ):
            scale = batch / self.given if self.side == "activations" else 1
            actual[self.side] = stored_bytes(
                entries[self.side],
                round(np.count_nonzero(self.mask) * scale),
                machine.value_bits,
                machine.metadata_bits,
            )
        if self.of_pass == WEIGHT_GRADIENT:
            first, second, result = "activations", "error", "weights"
            sizes = (memory.activations, memory.weights)
        else:
            first, second, result = "weights", "activations", "error"
            sizes = (memory.weights, memory.activations)
        if self.of_pass == INPUT_GRADIENT:
            second, result = result, second
        before, after = (
            traffic(
                *(stored[first], stored[second], dense[result]),
                first_buffer=sizes[0],
                second_buffer=sizes[1],
            )
            for stored in (dense, actual)
        )
        return before, after


def _side(
    layer: Layer,
    of_pass: str,
    machine: Accelerator | SystolicArray,
    weights: Masks,
    activations: Masks,
) -> str | None:
    """The operand whose zeros are skipped; None: none is."""
    if isinstance(machine, SystolicArray) or machine.interconnect == "none":
        return None
    if of_pass == WEIGHT_GRADIENT:
        return "activations"
    if of_pass == FORWARD and machine.skips == "sparser":
        found = [_zeros(masks.get(layer.name)) for masks in (weights, activations)]
        return "activations" if found[1] > found[0] else "weights"
    return "weights"


def _skips_padding(machine: Accelerator | SystolicArray) -> bool:
    return isinstance(machine, Accelerator) and machine.skips_padding


def _dense_mask(layer: Layer, side: str, examples: int) -> np.ndarray:
    if side == "weights":
        return np.ones(layer.kernel, bool)
    return np.ones((examples, *layer.inputs, layer.channels), bool)


def _zeros(mask: np.ndarray | None) -> float:
    return 0.0 if mask is None else 1 - np.count_nonzero(mask) / mask.size
