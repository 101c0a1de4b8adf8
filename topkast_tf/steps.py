"""After an optimizer's step: steps are counted, refreshes made, momenta looked up."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf import hooks, variables
from topkast_tf.variables import Component

AVERAGE = "average"
"""Name of the extra variable, in theta's shape, that holds an average of gradients."""
DECAY = 0.9


def count_steps_of(update: hooks.Update) -> None:
    """Counts one optimizer step of each sparse variable that it has updated.

    Called once per optimizer step, after all variables have been updated.
    """
    given = _by_component(update)
    groups, momenta, counted = [], [], set()
    for component, _, _ in given.values():
        if id(component) in counted:
            continue
        members = component.peers()
        counted.update(map(id, members))
        groups.append(members)
        momenta.append(
            [momentum(member, given, update.optimizer) for member in members]
            if component.weight.method.needs_momentum
            else None
        )
    if groups:
        variables.count_steps(groups, momenta)


hooks.after_update.append(count_steps_of)


def momentum(
    component: Component, given: Mapping[int, tuple], optimizer: Any
) -> tf.Tensor:
    """The momentum of a component at an optimizer step, in theta's shape.

    It is the optimizer's own, or where that keeps none ``m <- 0.9 m + 0.1 g``, of the
    gradients averaged over the replicas, which is kept beside theta.

    Args:
      component: of a weight whose method asks for it.
      given: id of a component -> (component, its variable, its gradient or None).
      optimizer: of the step.
    """
    _, variable, gradient = given.get(id(component), (None, None, None))
    found = None if variable is None else momentum_slot(optimizer, variable)
    if found is not None:
        copies = variables.components(variables.raw_variable(found))
        return copies[component.index % len(copies)].read_value()
    average = component.extra(AVERAGE)
    if gradient is not None:
        share = (1 - DECAY) * _over_replicas(gradient)
        average.assign(DECAY * average.read_value() + share)
    return average.read_value()


def momentum_slot(optimizer: Any, variable: Any) -> Any:
    """The optimizer's momentum of a variable, or None if it keeps none.

    Args:
      optimizer: of Keras 3 or tf_keras: SGD with momentum, Adam and its relatives,
        RMSprop with momentum, Lion, Lamb.
      variable: one of those it updates.

    Returns:
      A variable in the shape of the given one.
    """
    kept: Sequence[Any] = (
        getattr(optimizer, "momentums", None)
        or getattr(optimizer, "_momentums", None)
        or ()
    )
    if not kept:
        return None
    # Keras has no public way to ask which slot belongs to which variable.
    if hasattr(optimizer, "_get_variable_index"):
        return kept[optimizer._get_variable_index(variable)]
    return kept[optimizer._index_dict[optimizer._var_key(variable)]]


def _by_component(update: hooks.Update) -> dict[int, tuple]:
    gradients = dict(enumerate(update.gradients))
    found = {}
    for i, variable in enumerate(update.variables):
        component = variables.local_component(variable)
        if component is not None:
            found[id(component)] = component, variable, gradients.get(i)
    return found


def _over_replicas(gradient: Any) -> tf.Tensor:
    gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradient
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, gradient)
