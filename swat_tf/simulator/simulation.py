"""Simulates the cycles of a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.checks import check_counts, check_sizes
from swat_tf.simulator.jobs import schedule
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.passes import Masks, pass_of
from swat_tf.simulator.products import INPUT_GRADIENT, PASSES
from swat_tf.simulator.report import SimulationReport
from swat_tf.simulator.systolic import SystolicArray

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
    weights, activations = _arrays(weights), _arrays(activations)
    _check(layers, machine, weights, activations, sample, seed)
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
    passes = [
        pass_of(
            *(layer, of_pass, machine, weights, activations),
            sample=sample,
            random=random,
        )
        for place, layer in enumerate(layers)
        for of_pass in PASSES
        if place or of_pass != INPUT_GRADIENT
    ]
    if isinstance(machine, Accelerator):
        schedule(
            [jobs for each in passes for jobs in each.jobs or ()], machine, advanced
        )
    rows = tuple(each.cycles(machine, batch, random) for each in passes)
    least = min(examples.values(), default=1)
    return SimulationReport(rows, batch, least, machine.clock)


def _arrays(masks: Masks | None) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(mask).astype(bool, copy=False)
        for name, mask in (masks or {}).items()
    }


def _check(
    layers: Sequence[Layer],
    machine: object,
    weights: Masks,
    activations: Masks,
    sample: int,
    seed: int,
) -> None:
    """Checks the arguments."""
    if not isinstance(machine, (Accelerator, SystolicArray)):
        raise ValueError(
            "Expected `machine` to be an Accelerator or a SystolicArray, such as "
            f'preset("tcl"). Received: machine={machine!r}'
        )
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
