"""Counted memory of a training step of a run, as of `topkast_tf.count_memory`."""

import dataclasses

import keras

from launch.reports.records import Record
from launch.run.building import build
from launch.support.errors import UserError
from launch.tasks import task_of
from topkast_tf import count_memory


@dataclasses.dataclass(frozen=True)
class Memory:
    """Counted bytes of training, with the whole batch on one device.

    Attributes:
      dense_peak: of a step of the dense network, at most.
      sparse_peak: of a step of the sparse one in this library, at most.
      dense_device: of the dense network: weights, slots, gradients and saved activations.
      sparse_device: the same of the sparse one, on a device that stores no zeros.
      notes: sentences on what is not counted.
    """

    dense_peak: int
    sparse_peak: int
    dense_device: int
    sparse_device: int
    notes: tuple[str, ...]


def memory_of(record: Record, model: keras.Model) -> Memory | str:
    """Counts the memory of a model, and of the dense one of the same flags.

    Args:
      record: the run of the model.
      model: the model, compiled.

    Returns:
      The bytes, or a sentence on why there are none.
    """
    try:
        # A text that is not at hand: its vocabulary decides the sizes of the network.
        task = task_of(record.settings)
        dense, specs = build(task, "dense"), task.batch_spec
        counts = [count_memory(each, *specs) for each in (dense, model)]
    except (UserError, OSError, ValueError) as error:
        return f"Memory could not be counted: {error}"
    unknown = sorted({name for count in counts for name in count.uncounted})
    notes = [f"not counted, so lower bounds: {', '.join(unknown)}."] if unknown else []
    return Memory(
        *(count.peak for count in counts),
        counts[0].as_run.total,
        counts[1].on_sparse_device.total,
        tuple(notes),
    )
