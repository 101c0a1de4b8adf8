"""The variables that each device holds of one variable."""

from typing import Any

import tensorflow as tf

from topkast_tf.compat import raw_variable


def components(variable: Any) -> tuple[tf.Variable, ...]:
    """The per-device variables of a variable (the variable itself without a strategy)."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(variable.values)
    return (variable,)


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
