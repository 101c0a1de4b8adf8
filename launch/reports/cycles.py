"""Simulated cycles of a training step of a run, as of `launch/simulate.py RUN`."""

import dataclasses

import keras

from launch.cycles.of_run import EXAMPLES, inputs_of, left_out, task_with_data
from launch.reports.records import Record
from launch.support.errors import UserError
from swat_tf import simulator

MACHINE = "tcl"
"""The preset that steps are simulated on, that of `launch/simulate.py` by default."""


@dataclasses.dataclass(frozen=True)
class Cycles:
    """Cycles of a training step.

    Attributes:
      dense: of computing, if the machine multiplies all zeros.
      sparse: of computing, if it skips those that it can.
      dense_with_memory: the larger of computing and memory in each pass, likewise.
      sparse_with_memory: likewise.
      notes: sentences on what is left out.
    """

    dense: int
    sparse: int
    dense_with_memory: int
    sparse_with_memory: int
    notes: tuple[str, ...]


def cycles_of(record: Record, model: keras.Model) -> Cycles | str:
    """Simulates a step with the masks of a model and activations on its training data.

    Args:
      record: the run of the model.
      model: the model; a language model's memory is filled.

    Returns:
      The cycles, or a sentence on why there are none, such as data that is not at hand.
    """
    settings = record.settings
    try:
        task = task_with_data(record.run_dir, settings)
        inputs = inputs_of(task, model, min(EXAMPLES, settings.batch_size))
        found = simulator.operands_of(model, inputs)
        report = simulator.simulate(
            found.layers,
            simulator.preset(MACHINE),
            found.weights,
            found.activations,
            batch=settings.batch_size,
        )
    except (UserError, OSError, ValueError) as error:
        return f"Cycles could not be simulated: {error}"
    return Cycles(
        report.cycles(dense=True),
        report.cycles(),
        report.cycles(dense=True, memory=True),
        report.cycles(memory=True),
        tuple(left_out(task, model, found.layers)),
    )
