"""What the last checkpoint of a run says of its weights: sets, values and FLOPs."""

import dataclasses
import math
from typing import TypeVar

import keras
import numpy as np

import topkast_tf
from launch.callbacks import steps_taken
from launch.config.methods import METHODS
from launch.plots import histograms
from launch.reports.cycles import Cycles, cycles_of
from launch.reports.memory import Memory, memory_of
from launch.reports.records import Record
from launch.run.building import build
from launch.storage import checkpoints
from launch.support.errors import UserError
from launch.tasks import task_of
from launch.tasks.base import Task
from topkast_tf.analysis.flops import FlopCount, FlopReport
from topkast_tf.core.sets import FORWARD, RESERVOIR

_Found = TypeVar("_Found", Memory, Cycles)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A sparse weight.

    Attributes:
      path: its path.
      shape: its shape.
      forward_sparsity: the achieved one.
      backward_sparsity: likewise.
      codes: its sets, 0 for C, 1 for B \\ A, 2 for A.
      theta: its values; None if they were not asked for.
    """

    path: str
    shape: tuple[int, ...]
    forward_sparsity: float
    backward_sparsity: float
    codes: np.ndarray
    theta: np.ndarray | None

    @property
    def size(self) -> int:
        """The number of its entries."""
        return math.prod(self.shape)

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of its 2-D view, inputs x outputs."""
        last = self.shape[-1] if self.shape else 1
        return self.size // max(1, last), last

    def values(self) -> dict[str, np.ndarray]:
        """Theta by set, as `launch.plots.histograms` takes it.

        Raises:
          ValueError: if theta was not asked for.
        """
        if self.theta is None:
            raise ValueError(
                f"Expected a layer whose values were read. Received: {self.path}"
            )
        return histograms.by_set(self.theta, self.codes)


@dataclasses.dataclass(frozen=True)
class Weights:
    """The model of a checkpoint.

    Attributes:
      step: of the checkpoint.
      layers: its sparse weights, in the order of the network.
      sizes: path of a trainable weight, sparse or not -> number of its entries.
      parameters: trainable ones of the dense network of the same flags, which are those
        of the model itself, unless its method has other widths.
      kept_parameters: those that a forward pass uses.
      flops: counted, of one unit of the data; None if they cannot be counted.
      dense_flops: those of the dense network; None likewise.
      units_a_step: units that a step trains on; None likewise.
      memory: counted, of a step; None if it cannot be counted, or the run is dense.
      cycles: of a simulated step; None if they were not asked for, or not found.
      faults: sentences on what could not be read or counted.
    """

    step: int
    layers: tuple[Layer, ...]
    sizes: dict[str, int]
    parameters: int
    kept_parameters: int
    flops: FlopReport | None
    dense_flops: FlopCount | None
    units_a_step: int | None
    memory: Memory | None
    cycles: Cycles | None
    faults: tuple[str, ...]

    @property
    def flops_by_path(self) -> dict[str, tuple[FlopCount, FlopCount]]:
        """Path -> FLOPs of one unit, dense and sparse; weights used twice are summed."""
        found: dict[str, tuple[FlopCount, FlopCount]] = {}
        for row in self.flops.rows if self.flops else ():
            dense, sparse = found.get(row.path, (FlopCount(), FlopCount()))
            found[row.path] = dense + row.dense, sparse + row.run
        return found


def weights_of(
    record: Record, examined: int, *, simulate: bool = True
) -> Weights | str:
    """Reads the newest undamaged checkpoint of a run.

    Args:
      record: the run.
      examined: number of sparse weights whose values are kept, from the first to the
        last of the network.
      simulate: whether to simulate the cycles of a step.

    Returns:
      The weights, or a sentence on why there are none.
    """
    try:
        restored = checkpoints.restore(record.folder / "checkpoints")
    except UserError as error:
        return _without_folder(record, str(error))
    if restored is None:
        return "There is no checkpoint."
    model, _, damaged = restored
    summary = topkast_tf.summary(model)
    flops, units, faults = _counted(record, model)
    parameters, dense_flops = summary.dense_parameters, flops.dense if flops else None
    is_resized = METHODS[record.method].is_resized
    if is_resized and flops:
        task = task_of(record.settings)
        dense = build(task, "dense")
        parameters = topkast_tf.summary(dense).dense_parameters
        dense_flops = task.flops(dense).dense
    memory = cycles = None
    if summary.rows or is_resized:
        memory = _or_fault(memory_of(record, model), faults)
    if simulate and summary.rows:
        cycles = _or_fault(cycles_of(record, model), faults)
    return Weights(
        steps_taken(model),
        tuple(_layers(model, examined)),
        {v.path: math.prod(v.shape) for v in model.trainable_variables},
        parameters,
        summary.kept_parameters,
        flops,
        dense_flops,
        units,
        memory,
        cycles,
        tuple(_without_folder(record, fault) for fault in (*damaged, *faults)),
    )


def _or_fault(found: _Found | str, faults: list[str]) -> _Found | None:
    """What was found, or None, with the sentence on why among the faults."""
    if isinstance(found, str):
        faults.append(found)
        return None
    return found


def _without_folder(record: Record, sentence: str) -> str:
    """A sentence of a page that others may read, without where the run is."""
    return sentence.replace(str(record.run_dir), record.name)


def _layers(model: keras.Model, examined: int) -> list[Layer]:
    found = topkast_tf.sparse_weights(model)
    chosen = set(spread(len(found), examined))
    layers = []
    for place, weight in enumerate(found):
        codes = weight.codes()
        layers.append(
            Layer(
                weight.path,
                tuple(weight.shape),
                float((codes != FORWARD).mean()),
                float((codes == RESERVOIR).mean()),
                codes,
                np.asarray(weight.dense(), np.float32) if place in chosen else None,
            )
        )
    return layers


def spread(count: int, most: int) -> list[int]:
    """At most so many places out of a number of them, from the first to the last.

    >>> spread(3, 8), spread(9, 3), spread(9, 1), spread(9, 0)
    ([0, 1, 2], [0, 4, 8], [0], [])
    """
    if count <= most:
        return list(range(count))
    if most < 2:
        return list(range(most))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _counted(
    record: Record, model: keras.Model
) -> tuple[FlopReport | None, int | None, list[str]]:
    """FLOPs of a unit, units of a step, and why they could not be counted."""
    try:
        task: Task = task_of(record.settings)
        return task.flops(model), task.units_a_step, []
    except (UserError, OSError, ValueError) as error:
        # A text that is not at hand: its tokens decide which clusters are computed.
        return None, None, [f"FLOPs could not be counted: {error}"]
