"""The variables that each device holds of one variable."""

from typing import Any

import tensorflow as tf


def components(variable: Any) -> tuple[tf.Variable, ...]:
    """The per-device variables of a variable (the variable itself without a strategy)."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(variable.values)
    return (variable,)


def raw_variable(variable: Any) -> Any:
    """The `tf.Variable` of a Keras variable; a `tf.Variable` is returned as it is.

    `keras.Variable.value` is the `tf.Variable` too, but inside a mixed-precision scope it
    is a cast copy, hence the private name.
    """
    for wrapped in ("_value", "_variable"):  # Keras 3; tf_keras in mixed precision
        # By `vars`: a distributed variable passes on every attribute it does not have.
        variable = (
            vars(variable).get(wrapped, variable) if variable is not None else None
        )
    return variable


def local_index(variable: Any) -> int:
    """Which component of a variable belongs to the current replica."""
    count, context = len(components(variable)), tf.distribute.get_replica_context()
    if count == 1 or context is None:
        return 0
    # A replica's number is a constant, also where it is handed out as a tensor.
    return int(tf.get_static_value(context.replica_id_in_sync_group)) % count


def local_component(variable: Any) -> tf.Variable:
    """The component of a variable, of Keras or not, that the current replica holds."""
    raw = raw_variable(variable)
    return components(raw)[local_index(raw)]
