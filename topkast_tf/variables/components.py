"""The per-device components of a variable."""

from typing import Any

import tensorflow as tf

from topkast_tf.compat import raw_variable


def components(variable: Any) -> tuple[tf.Variable, ...]:
    """The per-device variables of a variable (the variable itself without a strategy)."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(variable.values)
    return (variable,)


def local_index(variable: Any) -> int:
    """The index of the current replica's component of a variable."""
    count, context = len(components(variable)), tf.distribute.get_replica_context()
    if count == 1 or context is None:
        return 0
    # A replica's id is a constant, even where it is given as a tensor.
    return int(tf.get_static_value(context.replica_id_in_sync_group)) % count


def local_component(variable: Any) -> tf.Variable:
    """The current replica's component of a variable, of Keras or TensorFlow."""
    raw = raw_variable(variable)
    return components(raw)[local_index(raw)]
