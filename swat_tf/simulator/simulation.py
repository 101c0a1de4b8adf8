"""Simulates the cycles of a training step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.checks import check_counts, check_sizes
from swat_tf.simulator.jobs import Jobs, jobs_of, schedule
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.memory import stored_bytes, traffic
from swat_tf.simulator.products import (
    FORWARD,
    INPUT_GRADIENT,
    PASSES,
    WEIGHT_GRADIENT,
    dense_cycles,
    products_of,
)
from swat_tf.simulator.report import PassCycles, SimulationReport
from swat_tf.simulator.systolic import SystolicArray

Masks = Mapping[str, np.ndarray]

SAMPLE = 2**19
"""Lines of rows that are scheduled for each product, unless the caller says otherwise.

Every product of a ResNet-50 with one image of 224 x 224 pixels has fewer, but those on the
zeros of activations in the forward pass of its first layer."""


def simulate(
    layers: Sequence[Layer],
    machine: Accelerator | SystolicArray,
    weights: Masks | None = None,
    activations: Masks | None = None,
    *,
    batch: int | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> SimulationReport:
    """The cycles of a training step: three products for each layer, two for the first.

    ::

        forward          Y = A * W                      skips zeros of W
        input gradient   dA = G dilated * W rotated     skips zeros of W; not of layer 0
        weight gradient  dW = A * G dilated             skips zeros of A

    Jobs are sets of as many vectors as a tile has rows, in the order of the vectors, or
    single vectors if rows are free; `scheduler` says how long one takes for a block of
    columns. The longest job that waits goes to the first free tile (or row), and

        compute cycles = end of the last job x ceil(others / columns)
        memory cycles = ceil(traffic / bandwidth x clock)
        cycles = max(compute, memory)

    Sampling: of a product with more than `sample` lines of rows, that many are scheduled,
    in jobs drawn without replacement; other jobs take the cycles of drawn ones. The
    standard error is that of the sum over jobs. Dense machines are exact.

    Args:
      layers: the layers, the first one first.
      machine: the accelerator, or a systolic array, which skips nothing.
      weights: layer name -> mask of the kernel's shape, true where not zero; layers
        without one are dense.
      activations: layer name -> mask of the input of the layer, (examples, spatial
        sizes..., channels); without one they are dense. The examples of a layer stand
        for the batch: a weight gradient is as deep as they have positions, and of few of
        them much of its vectors only fills up lines.
      batch: examples of the step, at least those given; default the most given, else 1.
        Cycles of products on activations grow with it as those of dense products do.
      sample: lines of rows that are scheduled for each product, at least 1.
      seed: of the samples.
      advanced: called with (done, all) as work goes on.

    Returns:
      A `SimulationReport`.

    Raises:
      ValueError: for layers without or with the same names, masks of other shapes, or
        an argument out of range.

    >>> from swat_tf.simulator import preset
    >>> layer = Layer("conv", (3, 3, 64, 64), (56, 56), padding=((1, 1), (1, 1)))
    >>> mask = np.random.default_rng(0).random(layer.kernel) > 0.9
    >>> report = simulate([layer], preset("tcl"), {"conv": mask})
    >>> report.rows[0].dense_cycles, report.rows[0].compute_cycles
    (7056, 3136)

    Source: SWAT (Raihan & Aamodt 2020) reports cycles of a simulator of this kind,
    whose parameters are not published. **This is not the authors' simulator.** Departs
    from DNNsim, which it follows in mapping and scheduling: tiles share the sets of
    a layer, sets may span taps in the weight gradient, and bank conflicts are not
    counted.
    """
    weights, activations = dict(weights or {}), dict(activations or {})
    _check(layers, weights, activations, sample, seed)
    examples = {name: len(mask) for name, mask in activations.items()}
    most = max(examples.values(), default=1)
    batch = most if batch is None else batch
    check_sizes(batch=batch)
    if batch < most:
        raise ValueError(
            "Expected a `batch` of at least the examples of the activations. "
            f"Received: batch={batch}, {most} examples"
        )
    random = np.random.default_rng(seed)
    passes = []
    for place, layer in enumerate(layers):
        given = examples.get(layer.name, 1)
        for of_pass in PASSES:
            if of_pass == INPUT_GRADIENT and place == 0:
                continue
            side = _side(layer, of_pass, machine, weights, activations)
            masks = activations if side == "activations" else weights
            mask = masks.get(layer.name) if side else None
            if mask is None and side and _skips_padding(machine):
                mask = _dense_mask(layer, side, given)
            jobs = None
            if mask is not None and isinstance(machine, Accelerator):
                jobs = [
                    jobs_of(
                        *(layer, of_pass, product, machine, mask),
                        sample=sample,
                        random=random,
                    )
                    for product in products_of(layer, of_pass, given, side)
                ]
            sparse = activations if of_pass == WEIGHT_GRADIENT else weights
            zeros = _zeros(sparse.get(layer.name))
            passes.append(_Pass(layer, of_pass, side, mask, jobs, zeros, given))
    if isinstance(machine, Accelerator):
        schedule(
            [jobs for each in passes for jobs in each.jobs or ()], machine, advanced
        )
    rows = tuple(each.cycles(machine, batch, random) for each in passes)
    least = min(examples.values(), default=1)
    return SimulationReport(rows, batch, least, machine.clock)


def _check(
    layers: Sequence[Layer], weights: Masks, activations: Masks, sample: int, seed: int
) -> None:
    """Checks the arguments."""
    check_sizes(sample=sample)
    check_counts(seed=seed)
    names = [layer.name for layer in layers]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected layers, each with a name of its own. Received: {names}"
        )
    for title, masks in (("weights", weights), ("activations", activations)):
        unknown = sorted(set(masks) - set(names))
        if unknown:
            raise ValueError(
                f"Expected masks of {title} of the layers. Received: {', '.join(unknown)}"
            )
    for layer in layers:
        mask = weights.get(layer.name)
        if mask is not None and mask.shape != layer.kernel:
            raise ValueError(
                f"Expected a mask of the weights of {layer.name!r} with the shape "
                f"{layer.kernel}. Received: {mask.shape}"
            )
        mask = activations.get(layer.name)
        shape = (*layer.inputs, layer.channels)
        if mask is not None and (mask.shape[1:] != shape or not len(mask)):
            raise ValueError(
                f"Expected a mask of the activations of {layer.name!r} with the shape "
                f"(examples, {', '.join(map(str, shape))}). Received: {mask.shape}"
            )


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


@dataclasses.dataclass
class _Pass:
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
