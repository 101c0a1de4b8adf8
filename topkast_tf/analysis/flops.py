"""Counted FLOPs of a model's products, dense and sparse, weight by weight.

Counted, not measured: a multiply and an add are two FLOPs, only products (matrix
products, convolutions, einsums) count, and a product at sparsity s costs 1 - s of the
dense one. Biases, norms, activations and pooling count on request. The selection of the
sets stands beside the total, in integer operations. Not counted: look-ups and optimizer
updates. Padding taps count as in RigL; the first layer's input gradient counts although it
is not needed, as in the published factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from topkast_tf.analysis.flop_report import (
    FlopCount,
    FlopReport,
    FlopRow,
    SelectionCost,
    product_flops,
)
from topkast_tf.analysis.graph_work import INPUTS, OUTPUTS
from topkast_tf.analysis.macs import MacCount, Trace, count_macs
from topkast_tf.methods.learned import MEAN_DENSITY
from topkast_tf.variables.components import components
from topkast_tf.variables.lookup import sparse_weights

__all__ = [
    "FlopCount",
    "FlopReport",
    "FlopRow",
    "MacCount",
    "SelectionCost",
    "count_flops",
    "count_macs",
    "product_flops",
]


_NO_ENTRIES: Mapping[str, Mapping[str, int]] = MappingProxyType({})


def count_flops(
    model: Callable[..., Any], input_spec: Any = None, *, elementwise: bool = False
) -> FlopReport:
    """Counted FLOPs per example of a model, dense and at its current sparsities.

    Per weight as `product_flops`, or by the rule of its layer (SWAT: the weight gradient
    at the sparsity of the activations, as realised in the last step). Weights that are
    not sparsified, and products of activations, cost three times their forward pass. A
    recurrent layer counts once for each position of its sequence. What the selection of
    the sets costs is in `selection`, beside all totals.

    Args:
      model: a Keras model or layer, built inside a scope or not, or any callable.
      input_spec: as in `count_macs`.
      elementwise: whether to count biases, norms, activations, softmax and pooling too:
        one FLOP for each entry of a result (`graph_work.ELEMENTWISE`), and as many for
        its gradient.

    Returns:
      A `FlopReport` with `rows`, `dense`, `sparse`, `inference_ratio`,
      `training_ratio` and `selection`.

    Raises:
      ValueError: as `count_macs`.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> report = count_flops(model)
    >>> report.dense.forward, report.dense.training, report.training_ratio
    (64.0, 192.0, 1.0)
    >>> count_flops(model, elementwise=True).dense.forward  # and four biases
    68.0

    Source: as `product_flops`, which reproduces RigL's published factors for uniform
    sparsity on ResNet-50.
    """
    trace = Trace(model, input_spec)
    weights = {weight.path: weight for weight in sparse_weights(trace.variables)}
    names = {
        id(part.handle): path
        for path, weight in weights.items()
        for part in components(weight.variable)
    }
    sparsities = {
        path: (
            float(weight.forward_sparsity),
            float(weight.backward_sparsity),
            weight.rule and weight.rule.product_sparsities(weight),
            mean_products(weight),
        )
        for path, weight in weights.items()
    }
    macs = trace.count(names)
    rows = [FlopRow(p, n, *sparsities.get(p, (0.0, 0.0))) for p, n in macs.items()]
    if macs.activations:
        rows.append(FlopRow("(activations)", macs.activations))
    # Entries of activations are needed where a rule selects among them.
    has_rules = any(weight.rule is not None for weight in weights.values())
    work = trace.work(names) if elementwise or has_rules else None
    if elementwise and work is not None:
        others = sum(work.operations.values())
        rows.append(FlopRow("(elementwise)", 0, elementwise=others))
    selection = selection_cost(weights.values(), work.entries if work else {})
    return FlopReport(tuple(rows), macs.uncounted, selection)


def selection_cost(
    weights: Iterable[Any], entries: Mapping[str, Mapping[str, int]] = _NO_ENTRIES
) -> SelectionCost:
    """What the selection of sets and operands costs.

    Args:
      weights: sparse weights; each is selected once a step.
      entries: path -> entries per example of the inputs and outputs of its layer; rules
        select among those. Without them, activations are left out.
    """
    of_weights = of_activations = 0.0
    for weight in weights:
        if weight.exempt:
            continue
        of_weights += weight.method.selection_operations(weight.view)
        if weight.rule is not None and weight.path in entries:
            sizes = entries[weight.path]
            of_activations += weight.rule.selection_operations(
                weight, sizes[INPUTS], sizes[OUTPUTS]
            )
    return SelectionCost(of_weights, of_activations)


def mean_products(weight: Any) -> tuple[float, float, float] | None:
    """What training made of a weight's products, on average; None if that is constant.

    By the schedule of its method; where training finds the sparsity, by the mean of its
    density over the steps so far, or else by the density that it has found.
    """
    method = weight.method
    if weight.exempt or weight.rule is not None:
        return None
    if MEAN_DENSITY in weight.trained and weight.step:
        density = weight.replica().auxiliary_variable(MEAN_DENSITY).numpy()
        return method.mean_products(1.0 - float(density), weight.bwd)
    if method.has_constant_products:
        return None
    if method.finds_sparsity and weight.step:
        return method.mean_products(weight.forward_sparsity, weight.bwd)
    # Of whole entries or blocks, as the sets have them.
    forward, backward = (
        1.0 - kept / weight.units
        for kept in (weight.kept_forward, weight.kept_backward)
    )
    return method.mean_products(forward, backward)
