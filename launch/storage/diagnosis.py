"""Finds the non-finite values of a model: in its weights, its gradients, its batch."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from launch.storage import checkpoints
from launch.support.errors import RunDiverged

SHOWN = 10


class Bad(NamedTuple):
    """A tensor with entries that are NaN or infinite.

    Attributes:
      path: its name.
      count: number of entries that are not finite.
      size: number of entries.
    """

    path: str
    count: int
    size: int


class Findings(NamedTuple):
    """The tensors that are not finite, and a sentence on their kind."""

    what: str
    bad: Sequence[Bad]


def check_finite(model: keras.Model) -> None:
    """Checks a model before a checkpoint, so that no checkpoint has non-finite values.

    Raises:
      FloatingPointError: if a weight, a statistic or an optimizer slot is not finite.
    """
    bad = _bad_variables(_all_variables(model))
    if bad:
        raise FloatingPointError(f"{bad[0].path} is not finite")


def weights(model: keras.Model) -> list[Bad]:
    """The trainable weights that are not finite, in the order of the layers."""
    return _bad_variables(model.trainable_variables)


def state(model: keras.Model) -> list[Bad]:
    """The statistics, memories and optimizer slots that are not finite."""
    trainable = {id(variable) for variable in model.trainable_variables}
    return _bad_variables(v for v in _all_variables(model) if id(v) not in trainable)


def gradients(model: keras.Model, batch: Any) -> list[Bad]:
    """The weights whose gradients on a batch are not finite, the last layer first.

    It takes one forward and one backward pass. The first weight of the list is the first
    one in the backward pass.

    Args:
      model: compiled; its statistics and its memory advance by one step.
      batch: a batch of `fit`: (inputs, targets) or (inputs, targets, weights).
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)

    def counts():
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        found = tape.gradient(loss, model.trainable_variables)
        return [_not_finite(g) if g is not None else tf.constant(0) for g in found]

    strategy = model.distribute_strategy
    per_replica = strategy.run(counts)
    found = [
        Bad(variable.path, max(map(int, locally)), variable.value.shape.num_elements())
        for variable, count in zip(model.trainable_variables, per_replica, strict=True)
        for locally in [strategy.experimental_local_results(count)]
    ]
    return [bad for bad in reversed(found) if bad.count]


def inputs(batch: Any) -> list[Bad]:
    """The parts of a batch that are not finite: inputs, targets, weights."""
    parts = zip(("inputs", "targets", "weights"), batch, strict=False)
    return [
        Bad(name, int(_not_finite(part)), int(tf.size(part)))
        for name, part in parts
        if part.dtype.is_floating and int(_not_finite(part))
    ]


def findings(model: keras.Model, batch: Callable[[], Any]) -> Findings:
    """The non-finite values that are closest to the cause.

    Non-finite weights or a non-finite batch cause non-finite gradients, so gradients are
    computed only if both are finite.

    Args:
      model: the model after the bad step.
      batch: returns the batch of that step.
    """
    found = weights(model)
    if found:
        return Findings("Not finite among its weights:", found)
    given = batch()
    found = inputs(given)
    if found:
        return Findings("Its weights are finite. Not finite in the batch:", found)
    found = gradients(model, given)
    if found:
        return Findings(
            "Its weights are finite. Not finite among the gradients of that batch, the "
            "last layer first:",
            found,
        )
    found = state(model)
    if found:
        return Findings(
            "Its weights and the gradients of that batch are finite. Not finite in its "
            "state:",
            found,
        )
    return Findings(
        "Its weights, and the gradients of that batch computed once more, are finite.",
        (),
    )


def stopped(
    name: str,
    step: int,
    cause: str,
    found: Findings,
    folder: pathlib.Path,
) -> RunDiverged:
    """The error that reports a run that has diverged.

    Args:
      name: the name of the method.
      step: the bad step, counted from 1.
      cause: the non-finite value that was detected first.
      found: the tensors that are not finite.
      folder: the folder of the checkpoints, which are all finite.
    """
    width = max((len(bad.path) for bad in found.bad[:SHOWN]), default=0)
    lines = [f"{name} training stopped at step {step}: {cause}.", found.what]
    lines += [
        f"  {path:{width}}  {count:,} of {size:,} entries"
        for path, count, size in found.bad[:SHOWN]
    ]
    if len(found.bad) > SHOWN:
        lines.append(f"  and {len(found.bad) - SHOWN} more")
    good = checkpoints.newest(folder)
    lines.append(
        f"Last good checkpoint: {good}"
        if good
        else "There is no checkpoint from before it."
    )
    lines.append(
        "Try a lower --learning_rate, a --clip_norm or more --warmup_steps, with another "
        "--run_dir."
    )
    return RunDiverged("\n".join(lines))


def _all_variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def _bad_variables(variables: Iterable[keras.Variable]) -> list[Bad]:
    found = []
    for variable in variables:
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating:
            count = int(_not_finite(value))
            if count:
                found.append(Bad(variable.path, count, int(tf.size(value))))
    return found


def _not_finite(value: Any) -> tf.Tensor:
    """The number of entries that are NaN or infinite."""
    if isinstance(value, tf.IndexedSlices):
        value = value.values
    return tf.math.count_nonzero(tf.logical_not(tf.math.is_finite(value)))
