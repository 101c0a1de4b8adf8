"""After an optimizer's step: steps are counted, refreshes made, momenta looked up."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.variables import hooks
from topkast_tf.variables import sparse_variable as variables
from topkast_tf.variables.sparse_variable import Component

AVERAGE = "average"
"""Name of the extra variable, in theta's shape, that holds an average of gradients."""
DECAY = 0.9


@contextlib.contextmanager
def counting(update: hooks.Update) -> Iterator[None]:
    """Counts one optimizer step of each sparse variable that the call has updated.

    Entered around the call: what it needs of the gradients is read before, because
    Keras empties its accumulators in it.
    """
    given = _by_component(update)
    groups = _groups(component for component, _, _ in given.values())
    complete = _is_complete(update.optimizer)
    gradients = {
        id(component): whole_gradient(update.optimizer, variable, gradient)
        for component, variable, gradient in given.values()
        if _needs_momentum(component)
        and gradient is not None
        and momentum_slot(update.optimizer, variable) is None
    }
    yield
    momenta = [
        [_momentum(member, given, gradients, complete, update) for member in group]
        if _needs_momentum(group[0])
        else None
        for group in groups
    ]
    if groups:
        variables.count_steps(groups, momenta, complete)


hooks.around_update.append(counting)


def _momentum(
    component: Component,
    given: Mapping[int, tuple],
    gradients: Mapping[int, tf.Tensor],
    complete: tf.Tensor | None,
    update: hooks.Update,
) -> tf.Tensor:
    """The momentum of a component after an optimizer step, in theta's shape.

    It is the optimizer's own, or where that keeps none ``m <- 0.9 m + 0.1 g`` with the
    gradient of the step, which is kept beside theta.

    Args:
      component: of a weight whose method asks for it.
      given: id of a component -> (component, its variable, its gradient or None).
      gradients: id of a component -> its gradient of the whole step.
      complete: as for `variables.count_steps`.
      update: the call of the optimizer.
    """
    _, variable, _ = given.get(id(component), (None, None, None))
    found = None if variable is None else momentum_slot(update.optimizer, variable)
    if found is not None:
        copies = variables.components(variables.raw_variable(found))
        return copies[component.index % len(copies)].read_value()
    average = component.extra(AVERAGE)
    before = average.read_value()
    gradient = gradients.get(id(component))
    if gradient is None:
        return before
    taken = component.clock.read_value()[variables.PENDING] > 0
    if complete is not None:
        taken &= complete
    average.assign(tf.where(taken, DECAY * before + (1 - DECAY) * gradient, before))
    return average.read_value()


def _is_complete(optimizer: Any) -> tf.Tensor | None:
    """Whether this call of an optimizer is one that updates; None if all of them are.

    An optimizer of Keras 3 with `gradient_accumulation_steps` updates at one call in so
    many, and adds up the gradients at the others.
    """
    every = getattr(optimizer, "gradient_accumulation_steps", None)
    if not every:
        return None
    # The public `iterations` counts updates, not calls.
    calls = tf.convert_to_tensor(optimizer._iterations)
    return tf.equal((calls + 1) % every, 0)


def whole_gradient(optimizer: Any, variable: Any, gradient: Any) -> tf.Tensor:
    """The gradient of a step: over all replicas, and all batches that it accumulates.

    ``sum over replicas of (accumulated + gradient) / accumulation steps``: what the
    optimizer is about to update with, before it clips. To be called before its update.

    Args:
      optimizer: of Keras 3 or tf_keras.
      variable: one of those it updates.
      gradient: of this call.

    Returns:
      A float32 tensor in the variable's shape. Until the last of the batches that are
      accumulated, it is that of a part of them.
    """
    gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    if every := getattr(optimizer, "gradient_accumulation_steps", None):
        # Keras has no public way to ask for what it has added up.
        if sums := getattr(optimizer, "_accumulated_gradients", None):
            added = sums[optimizer._get_variable_index(variable)]
            gradient += tf.cast(tf.convert_to_tensor(added), tf.float32)
        gradient /= every
    if scale := getattr(optimizer, "loss_scale_factor", None):
        gradient /= scale
    return _over_replicas(gradient)


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


def _groups(updated: Iterable[Component]) -> list[list[Component]]:
    """The components that share a budget with those updated, budget by budget."""
    groups, grouped = [], set()
    for component in updated:
        if id(component) not in grouped:
            groups.append(component.peers())
            grouped.update(map(id, groups[-1]))
    return groups


def _needs_momentum(component: Component) -> bool:
    return component.weight.method.needs_momentum and not component.weight.exempt


def _by_component(update: hooks.Update) -> dict[int, tuple]:
    gradients = dict(enumerate(update.gradients))
    found = {}
    for i, variable in enumerate(update.variables):
        component = variables.local_component(variable)
        if component is not None:
            found[id(component)] = component, variable, gradients.get(i)
    return found


def _over_replicas(gradient: tf.Tensor) -> tf.Tensor:
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradient
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
