"""The networks of a run, with their masks and sampled activations."""

import math
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from absl import flags

from launch.cycles.subject import Subject, check_examples
from launch.models.transformer_xl import TransformerXL
from launch.run.trained import trained_models
from launch.storage import run_folder
from launch.support.errors import UserError
from launch.tasks import task_of
from launch.tasks.base import Task
from swat_tf import simulator
from topkast_tf import sparse_weights

EXAMPLES = 32
"""Those whose activations stand for a batch, at most, unless asked otherwise."""
_ALL = 0.9995


def of_run(run_dir: pathlib.Path, values: flags.FlagValues) -> Iterator[Subject]:
    """The networks of a run with their masks, and activations on its training data.

    Args:
      run_dir: the folder of the run.
      values: of `simulate_flags.parse`.

    Raises:
      UserError: for a folder without a run or without a trained model, for other data than
        that of the run, and for a network that cannot be simulated.
    """
    settings = run_folder.settings_of(run_dir)
    settings.data_dir = values.data_dir or settings.data_dir
    batch = values.batch_size or settings.batch_size
    most = min(batch, settings.batch_size)
    given = values.examples or min(EXAMPLES, most)
    check_examples(given, most)
    task = task_with_data(run_dir, settings)
    is_empty = True
    for method, model in trained_models(run_dir, values.checkpoint, values.method):
        is_empty = False
        try:
            found = simulator.operands_of(model, inputs_of(task, model, given))
        except ValueError as error:
            raise UserError(f"{error} ({method} in {run_dir})") from error
        yield Subject(
            method,
            f"{method} in {run_dir}: masks of the {values.checkpoint} checkpoint, "
            f"activations of {given} training examples.",
            *found,
            batch=batch,
            notes=tuple(left_out(task, model, found.layers)),
        )
    if is_empty:
        of = f" of --method={values.method}" if values.method else ""
        raise UserError(
            f"Expected a run with a saved model{of}. Received: {run_dir}, which has none"
        )


def task_with_data(run_dir: pathlib.Path, settings: flags.FlagValues) -> Task:
    """The task of a run, with the data that it was trained on loaded.

    Args:
      run_dir: the folder of the run.
      settings: its flags.

    Raises:
      UserError: for other data, and data that is not at hand.
    """
    task = task_of(settings)
    task.load()
    run_folder.check_data(run_dir, task.data_digest, first=False)
    return task


def inputs_of(task: Task, model: keras.Model, examples: int) -> tf.Tensor:
    """The first examples of a batch of training.

    The memory of a language model is filled by the batches before, in the lengths of
    training.

    Args:
      task: that of the model, with its data loaded.
      model: the model.
      examples: at most those of a batch.
    """
    if not isinstance(model, TransformerXL):
        [batch] = task.training_batches(0, 1)
        return batch[0][:examples]
    config = model.config
    model.evaluation_memory_length = config.memory_length
    before = math.ceil(config.memory_length / config.segment_length)
    *earlier, last = task.training_batches(0, 1 + before)
    for batch in earlier:
        model(batch[0][:examples], training=False)
    return last[0][:examples]


def left_out(
    task: Task, model: keras.Model, layers: list[simulator.Layer]
) -> Iterator[str]:
    """Sentences on what is left out of the simulation.

    Args:
      task: that of the model, with its data loaded.
      model: the model.
      layers: those that are simulated.
    """
    units = task.units_a_step / task.settings.batch_size
    counted = task.flops(model).dense.forward / 2 * units
    share = sum(layer.macs for layer in layers) / counted
    if share < _ALL:
        yield (
            f"The layers have {share:.1%} of the counted multiply-adds of the forward "
            "pass; products of activations, and those outside of dense layers and "
            "convolutions, are not simulated."
        )
    if any(weight.rule is None for weight in sparse_weights(model)):
        yield (
            "That the method updates a part of the weights is not used: the weight "
            "gradient skips zeros of the activations."
        )
