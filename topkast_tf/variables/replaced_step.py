"""Optimizer calls whose step is replaced by an update of the sets."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.sets import chosen
from topkast_tf.variables.components import local_component


def run_unless(
    replaced: tf.Tensor,
    run: Callable[[], Any],
    optimizer: Any,
    variables: Sequence[Any],
) -> Any:
    """Runs an optimizer's step, or leaves every variable unchanged.

    If the optimizer accumulates gradients, the update consumes the accumulated batches:
    accumulation restarts with the next batch.

    Args:
      replaced: boolean scalar, whether to skip the step.
      run: takes the step.
      optimizer: the built optimizer.
      variables: the variables that it updates.

    Returns:
      The result of `run` if it ran eagerly; otherwise None.
    """
    if tf.executing_eagerly():
        if not replaced:
            return run()
        _begin_accumulating_anew(optimizer)
        return None
    if _updates_are_merged():
        return _run_and_undo(replaced, run, optimizer, variables)

    def leave() -> tf.Tensor:
        _begin_accumulating_anew(optimizer)
        return tf.constant(True)

    def take() -> tf.Tensor:
        run()
        return tf.constant(True)

    tf.cond(replaced, leave, take)
    return None


def _updates_are_merged() -> bool:
    """Whether replicas delegate updates to one thread, impossible inside a branch."""
    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        return False
    return compat.merges_calls(context.strategy)


def _run_and_undo(
    replaced: tf.Tensor,
    run: Callable[[], Any],
    optimizer: Any,
    variables: Sequence[Any],
) -> None:
    """Takes the step, and restores the old values if it is replaced.

    This costs a copy of the parameters and the optimizer's variables in each step.
    """
    touched = {
        id(each): each
        for variable in [*variables, *optimizer.variables]
        if (each := local_component(variable)) is not None
    }
    before = {key: _read(each) for key, each in touched.items()}
    run()
    for key, each in touched.items():
        _write(each, chosen(replaced, before[key], _read(each)))


def _read(variable: tf.Variable) -> tf.Tensor:
    replica = getattr(variable, "_topkast", None)
    # A copy: the value may be changed in place.
    return tf.identity(
        variable.read_value() if replica is None else replica.read_theta()
    )


def _write(variable: tf.Variable, value: tf.Tensor) -> None:
    assign = getattr(variable, "assign_directly", variable.assign)
    assign(value)


def _begin_accumulating_anew(optimizer: Any) -> None:
    every = getattr(optimizer, "gradient_accumulation_steps", None)
    if not every:
        return
    compat.clear_accumulated_gradients(optimizer)
    # One in `every` counted calls is a step; this was the last before a step.
    calls = compat.raw_variable(compat.calls(optimizer))
    calls.assign_sub(tf.cast(every - 1, calls.dtype))
