"""Where a model is not finite: its weights, its gradients, its batch."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from launch.storage import checkpoints
from launch.support.errors import UserError

SHOWN = 10


class Bad(NamedTuple):
    """A tensor with entries that are NaN or infinite.

    Attributes:
      path: its name.
      count: how many entries are not finite.
      size: of how many.
    """

    path: str
    count: int
    size: int


class Findings(NamedTuple):
    """What is not finite, and what kind of thing that is."""

    what: str
    bad: Sequence[Bad]


def check_finite(model: keras.Model) -> None:
    """Asked before a checkpoint is written, so that none holds what is not finite.

    Raises:
      FloatingPointError: if a weight, a statistic or a slot of the optimizer is not.
    """
    bad = _bad_variables(_all_variables(model))
    if bad:
        raise FloatingPointError(f"{bad[0].path} is not finite")


def weights(model: keras.Model) -> list[Bad]:
    """The trainable weights that are not finite, in the order of the layers."""
    return _bad_variables(model.trainable_variables)


def state(model: keras.Model) -> list[Bad]:
    """What is not finite among statistics, memories and the optimizer's slots."""
    trainable = {id(variable) for variable in model.trainable_variables}
    return _bad_variables(v for v in _all_variables(model) if id(v) not in trainable)


def gradients(model: keras.Model, batch: Any) -> list[Bad]:
    """The weights whose gradients on a batch are not finite, the last layer first.

    One forward and one backward pass: the first of the list is where the backward pass
    met it first.

    Args:
      model: compiled; its statistics and its memory move on by a step.
      batch: what `fit` was given: (inputs, targets) or with weights as a third.
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
    """What is not finite: the nearest to the cause that can still be told.

    Weights that are bad make bad gradients, and a bad batch does too, so gradients are
    computed only where both are finite.

    Args:
      model: as the bad step has left it.
      batch: gives that step's batch.
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
) -> UserError:
    """What a person is told of a run that cannot go on.

    Args:
      name: what was trained.
      step: the bad one, counted from 1.
      cause: what was noticed.
      found: what is not finite.
      folder: of the run's checkpoints, which are all finite.
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
    return UserError("\n".join(lines))


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
    """How many entries are NaN or infinite."""
    if isinstance(value, tf.IndexedSlices):
        value = value.values
    return tf.math.count_nonzero(tf.logical_not(tf.math.is_finite(value)))
