"""A cycle model of a sparse training accelerator.

It is not the simulator of SWAT's authors, whose parameters are not published. Cycles are
simulated, not measured. docs/simulator.md has the formulas, the sources and the limits.

>>> from swat_tf import simulator
>>> layers = [
...     simulator.Layer("conv", (3, 3, 16, 32), (14, 14), padding=((1, 1), (1, 1))),
...     simulator.Layer.dense("logits", 32, 10),
... ]
>>> sparsities = simulator.layer_sparsities(layers, 0.9, exempt=["first"])
>>> report = simulator.simulate(
...     layers,
...     simulator.preset("tcl"),
...     simulator.random_weights(layers, sparsities),
...     simulator.random_activations(layers, sparsities),
... )
>>> [(row.layer, row.of_pass, row.dense_cycles) for row in report.rows][:2]
[('conv', 'forward', 117), ('conv', 'weight gradient', 26)]
"""

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.from_model import (
    Operands,
    layers_of,
    operands_of,
    simulate_model,
)
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.memory import Memory
from swat_tf.simulator.presets import PRESETS, preset
from swat_tf.simulator.published import PUBLISHED, SETTINGS
from swat_tf.simulator.random_masks import (
    enough_examples,
    layer_sparsities,
    random_activations,
    random_weights,
)
from swat_tf.simulator.report import PassCycles, SimulationReport
from swat_tf.simulator.simulation import simulate
from swat_tf.simulator.systolic import SystolicArray, systolic_cycles

__all__ = [
    "Accelerator",
    "Layer",
    "Memory",
    "Operands",
    "PRESETS",
    "PUBLISHED",
    "SETTINGS",
    "PassCycles",
    "SimulationReport",
    "SystolicArray",
    "enough_examples",
    "layer_sparsities",
    "layers_of",
    "operands_of",
    "preset",
    "random_activations",
    "random_weights",
    "simulate",
    "simulate_model",
    "systolic_cycles",
]
