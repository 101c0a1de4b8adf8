"""Counted memory of training a model, as it runs here and on a truly sparse device.

Counted, not measured: nothing is run. Variables count as they are. What a step needs is
read from its graph, which is traced as `fit` would trace it, without XLA: the tensors of
the forward pass that the backward pass reads, and the most that is there at once
(`topkast_tf.analysis.graph_memory`). Not counted: the batch, the graph itself, and memory
within an operation, such as blocks that a product packs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.analysis import graph_memory
from topkast_tf.analysis.graph_macs import Frame
from topkast_tf.analysis.graph_memory import Buffer
from topkast_tf.analysis.memory_report import Bytes, MemoryReport, MemoryRow
from topkast_tf.analysis.storage import POSITIONS, plan_bytes, positions
from topkast_tf.analysis.training_step import TrainingStep
from topkast_tf.compat import raw_variable
from topkast_tf.core.sparsities import kept
from topkast_tf.kernels import library
from topkast_tf.kernels.choice import NATIVE
from topkast_tf.variables.components import components
from topkast_tf.variables.lookup import planned_weights
from topkast_tf.variables.steps import slots_of
from topkast_tf.variables.weight import SparseWeight

__all__ = ["Bytes", "MemoryReport", "MemoryRow", "count_memory"]

OPTIMIZER, STEP = "(optimizer)", "(step)"
"""Rows of what belongs to no layer: counts of the optimizer; the loss."""

_ORDERS = 7
"""Orders of the reads of variables, of which the median counts."""


def count_memory(
    model: Any,
    input_spec: Any = None,
    target_spec: Any = None,
    *,
    positions: str = "smaller",
) -> MemoryReport:
    r"""Counted bytes of training a model: as this process holds them, and truly sparse.

    As run, of a weight of n entries with \|A\| = a and \|B\| = b, s slots, float32::

                     dense    masked    native    packed
        parameters   4 n      4 n       4 n       4 n + 4 b   (4 b, with theta in files)
        sets         0        n         n         n + b       (b, with theta in files)
        slots        4 n s    4 n s     4 n s     4 b s
        gradients    4 n      4 n       4 n       4 b
        copies       0        alpha     0         0

    with counters, what else the method keeps, and the plans of native kernels: what they
    take, or before the first step `storage.plan_bytes`. On a device that stores sparse
    tensors as such::

        parameters   4 b      values of B; theta of n entries, on the host
        sets         positions of B, and a bit of each for A where A is not B
        slots        4 b s
        gradients    4 b
        copies       0        activations as run, without copies of weights

    Positions take n / 8 bytes as bits, or 4 b as indices. A method that updates every
    entry has b = n, and the positions of A. A method whose sets are one mask needs no
    theta on the host. Of inputs that a rule saves sparse (SWAT), the kept entries and a
    bit of each entry count; a ReLU beside it takes a bit for each entry.

    Args:
      model: a Keras model or layer, or a `tf.Module`, in a scope or not. Slots are those
        of its optimizer, if it was compiled. What is not built yet is built.
      input_spec: as in `count_flops`; its first dimension is the batch that is counted
        (1 if it is None).
      target_spec: of the targets, likewise, to count the loss that the model was compiled
        with; None for the mean of the squares of the outputs.
      positions: ``"smaller"``, ``"bits"`` or ``"indices"``: how a sparse device stores
        positions.

    Returns:
      A `MemoryReport` with `rows`, `as_run`, `on_sparse_device`, `on_host`, `peak`.

    Raises:
      ValueError: for an unknown input, another `positions`, or a `target_spec` of a model
        that is not compiled.

    >>> import keras
    >>> from topkast_tf import topkast_scope
    >>> with topkast_scope(fwd=0.75, bwd=0.5):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    >>> model.compile("adam", "mse")
    >>> report = count_memory(model, (32, 4))
    >>> report.as_run.parameters, report.as_run.gradients  # 16 weights and 4 biases
    (80, 80)
    >>> report.on_sparse_device.parameters, report.on_host.parameters  # 8 and 4; 16
    (48, 64)

    Source: theta on the host is what Top-KAST's notes on implementation propose;
    activations as values and bits are `swat_tf.packing`.
    """
    if positions not in POSITIONS:
        raise ValueError(
            f"Expected positions in {POSITIONS}. Received: positions={positions!r}"
        )
    if not callable(model) or not hasattr(model, "trainable_variables"):
        raise ValueError(
            "Expected a Keras model or layer, or a tf.Module that can be called. "
            f"Received: {model!r:.80}"
        )
    optimizer = getattr(model, "optimizer", None)
    if target_spec is not None and optimizer is None:
        raise ValueError(
            "Expected a compiled model with target_spec, whose loss is counted. Received: "
            f"target_spec={target_spec!r} and a model without an optimizer"
        )
    step = TrainingStep(model, input_spec, target_spec)
    weights = planned_weights(model)
    of_path = {_layer_path(weight.path): weight for weight in weights}
    rows = _Rows()
    seen: set[int] = set()
    for weight in weights:
        slots = _count_weight(rows, weight, model, optimizer, positions)
        own = [weight.variable, *weight.state_variables().values(), *slots]
        own += weight.packed or ()
        seen.update(_handles(own))
    for variable in _unique([*model.variables, *model.trainable_variables], seen):
        slots = _slots(optimizer, model, variable)
        seen.update(_handles(slots))
        of_slots = sum(map(_bytes, slots))
        trained = _bytes(variable) if variable.trainable else 0
        made = Bytes(_bytes(variable), slots=of_slots, gradients=trained)
        rows.add(_layer_path(_path(variable)), made, made)
    for variable in _unique(getattr(optimizer, "variables", ()), seen):
        made = Bytes(slots=_bytes(variable))
        rows.add(OPTIMIZER, made, made)
    run, selecting = (_followed(step, of_path, selects) for selects in (False, True))
    saved = _saved(step, run)
    _count_saved(rows, step, saved, of_path)
    return MemoryReport(
        rows.made(),
        run.peak,
        selecting.peak,
        _parts(step, run, saved),
        tuple(sorted(run.uncounted | selecting.uncounted)),
    )


class _Rows:
    """Rows by their path, in the order in which they were first met."""

    def __init__(self) -> None:
        self._rows: dict[str, MemoryRow] = {}

    def add(
        self,
        path: str,
        as_run: Bytes,
        sparse: Bytes,
        host: Bytes = Bytes(),  # noqa: B008, frozen
        in_files: int = 0,
    ) -> None:
        old = self._rows.get(path, MemoryRow(path))
        self._rows[path] = MemoryRow(
            path,
            old.as_run + as_run,
            old.on_sparse_device + sparse,
            old.on_host + host,
            old.in_files + in_files,
        )

    def made(self) -> tuple[MemoryRow, ...]:
        return tuple(self._rows.values())


def _count_weight(
    rows: _Rows, weight: SparseWeight, model: Any, optimizer: Any, form: str
) -> list[Any]:
    """Adds a sparse weight; returns its slots."""
    n, item = math.prod(weight.shape), tf.as_dtype(weight.variable.dtype).size
    codes = weight.codes()
    a, b = int((codes == 2).sum()), int((codes > 0).sum())
    packed = weight.packed
    trained = weight.variable if packed is None else packed.entries
    slots = _slots(optimizer, model, trained)
    is_trained = _trained(model, trained) is not None
    per_entry = sum(map(_bytes, slots)) / max(1, math.prod(trained.shape))
    theta, sets = n * item, sum(map(_bytes, weight.state_variables().values()))
    in_files = 0
    if packed is not None and weight.theta_dir is not None:
        in_files = theta + n
    run = Bytes(
        parameters=theta + (0 if packed is None else _bytes(packed.entries)),
        sets=sets + (0 if packed is None else _bytes(packed.members)),
        slots=sum(map(_bytes, slots)),
        plans=_plans(weight, a, b),
        gradients=_bytes(trained) if is_trained else 0,
    )
    if in_files:
        run = run + Bytes(parameters=-theta, sets=-n)
    if weight.exempt or a == n:
        sparse, host = (
            Bytes(
                theta, slots=round(n * per_entry), gradients=theta if is_trained else 0
            ),
            Bytes(),
        )
    else:
        bits = -(-b // 8) if a < b < n else 0
        sparse = Bytes(
            parameters=b * item,
            sets=positions(n, b if b < n else a, form) + bits,
            slots=round(b * per_entry),
            gradients=b * item if is_trained else 0,
        )
        keeps_theta = b < n and not weight.method.one_mask
        host = Bytes(theta) if keeps_theta else Bytes()
    rows.add(_layer_path(weight.path), run, sparse, host, in_files)
    return slots


def _plans(weight: SparseWeight, a: int, b: int) -> int:
    """Bytes of the plans of a weight's kernels: those that are there, or will be."""
    if weight.kernels is None or weight.kernels.kernels != NATIVE:
        return 0
    key = weight.replica().plans_key
    there = 0 if key is None else library.library().plan_bytes(key)
    if there:
        return there
    is_matrix = all(size == 1 for size in weight.shape[: weight.view.spatial_axes])
    matrix = (weight.view.rows, weight.view.cols) if is_matrix else None
    return plan_bytes(a, b, matrix, weight.packed is not None)


def _followed(
    step: TrainingStep, of_path: dict[str, SparseWeight], selects: bool
) -> graph_memory.Run:
    """The run with the median peak, over some orders in which variables are read.

    TensorFlow begins with the operations without inputs in an order of its own, which
    depends on their names.
    """

    def density_of(op: tf.Operation) -> float:
        weight = of_path.get(_path_of_layer(step.layer_of(step.place(op))))
        sparsity = None if weight is None else _saves(weight)
        return 1.0 if sparsity is None else 1 - sparsity

    runs = [
        graph_memory.run_of(
            Frame(step.graph),
            step.inputs,
            density_of=density_of,
            seed=seed,
            selects=selects,
        )
        for seed in range(_ORDERS)
    ]
    return sorted(runs, key=lambda run: run.peak)[_ORDERS // 2]


class _Saved(NamedTuple):
    """A buffer of the forward pass that the backward pass reads.

    Attributes:
      buffer: it.
      path: of its layer: of several that write to it, in place, the last one.
      of_data: whether it depends on the batch when it is saved. What the backward pass
        writes over it later does not count.
    """

    buffer: Buffer
    path: str
    of_data: bool


def _saved(step: TrainingStep, run: graph_memory.Run) -> list[_Saved]:
    found = []
    for buffer in run.buffers:
        writers = [op for op in buffer.ops if step.place(op) < step.forward_end]
        if writers and _backward_readers(step, buffer):
            path = _path_of_layer(step.layer_of(step.place(writers[-1])))
            names = {tensor.name for op in writers for tensor in op.outputs}
            found.append(_Saved(buffer, path, not names.isdisjoint(run.data)))
    return found


def _backward_readers(step: TrainingStep, buffer: Buffer) -> set[str]:
    """The types of the operations of the backward pass that read a buffer."""
    return {
        op.type
        for op in buffer.readers
        if step.forward_end <= step.place(op) < step.backward_end
    }


def _count_saved(
    rows: _Rows,
    step: TrainingStep,
    saved: Iterable[_Saved],
    of_path: dict[str, SparseWeight],
) -> None:
    sparsities = {path: _saves(weight) for path, weight in of_path.items()}
    saves_sparse = any(each is not None for each in sparsities.values())
    for buffer, path, of_data in saved:
        if not of_data:
            rows.add(path, Bytes(copies=buffer.size), Bytes())
            continue
        sparse, sparsity = buffer.size, sparsities.get(path)
        if sparsity is not None:
            sparse = _saved_sparse(buffer, sparsity, of_path[path].rule)
        elif saves_sparse and _backward_readers(step, buffer) <= {"ReluGrad"}:
            sparse = -(-buffer.entries // 8)
        rows.add(path, Bytes(activations=buffer.size), Bytes(activations=sparse))


def _saved_sparse(buffer: Buffer, sparsity: float, rule: Any) -> int:
    """What a rule saves of a layer's input: kept values and a bit of each entry."""
    if getattr(rule, "storage", "dense") == "packed":
        return buffer.size
    item = buffer.size // max(1, buffer.entries)
    if item == 1:  # the mask itself
        return 0
    return kept(buffer.entries, sparsity) * item + -(-buffer.entries // 8)


def _parts(
    step: TrainingStep,
    run: graph_memory.Run,
    saved: Iterable[_Saved],
) -> dict[str, int]:
    """What the tensors of a step are at the moment when they are most."""
    kinds = {
        id(each.buffer): "activations" if each.of_data else "copies" for each in saved
    }
    for tensor in step.gradients:
        buffer = run.of_tensor.get(graph_memory.source(tensor).name)
        if buffer is not None:
            kinds[id(buffer)] = "gradients"
    found: Counter[str] = Counter()
    for buffer in run.held:
        found[kinds.get(id(buffer), "working")] += buffer.size
    found["working"] += run.inside
    return {
        name: found[name] for name in ("activations", "copies", "gradients", "working")
    }


def _saves(weight: SparseWeight) -> float | None:
    """The sparsity of the input that a layer saves; None if it saves it as it is."""
    if weight.exempt or weight.rule is None:
        return None
    return weight.rule.saved_sparsity(weight)


def _slots(optimizer: Any, model: Any, variable: Any) -> list[Any]:
    """The optimizer's slots of a variable; none if nothing trains it."""
    trained = _trained(model, variable)
    if optimizer is None or trained is None:
        return []
    return slots_of(compat.innermost_optimizer(optimizer), trained)


def _trained(model: Any, variable: Any) -> Any:
    """The trainable variable of a model that a variable is, or None."""
    for trained in model.trainable_variables:
        if raw_variable(trained) is raw_variable(variable):
            return trained
    return None


def _unique(variables: Iterable[Any], seen: set[int]) -> list[Any]:
    found = []
    for variable in variables:
        handles = _handles([variable])
        if handles and not handles & seen:
            seen |= handles
            found.append(variable)
    return found


def _handles(variables: Iterable[Any]) -> set[int]:
    raws = (raw_variable(each) for each in variables)
    return {
        id(part.handle) for raw in raws if raw is not None for part in components(raw)
    }


def _bytes(variable: Any) -> int:
    return math.prod(variable.shape) * tf.as_dtype(variable.dtype).size


def _path(variable: Any) -> str:
    return getattr(variable, "path", variable.name).split(":")[0]


def _layer_path(path: str) -> str:
    return path.rpartition("/")[0] or path


def _path_of_layer(layer: Any) -> str:
    if layer is None:
        return STEP
    return getattr(layer, "path", None) or layer.name
