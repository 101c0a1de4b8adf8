"""After an optimizer's step: steps are counted, refreshes made, momenta looked up."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.variables import hooks
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.refresh import count_steps
from topkast_tf.variables.replica import (
    WeightReplica,
    components,
    local_replica,
    raw_variable,
)

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
    groups = _groups(replica for replica, _, _ in given.values())
    complete = _is_complete(update.optimizer)
    gradients = {
        id(replica): whole_gradient(update.optimizer, variable, gradient)
        for replica, variable, gradient in given.values()
        if _needs_momentum(replica)
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
        count_steps(groups, momenta, complete)


hooks.around_update.append(counting)


def _momentum(
    replica: WeightReplica,
    given: Mapping[int, tuple],
    gradients: Mapping[int, tf.Tensor],
    complete: tf.Tensor | None,
    update: hooks.Update,
) -> tf.Tensor:
    """The momentum of a replica after an optimizer step, in theta's shape.

    It is the optimizer's own, or where that keeps none ``m <- 0.9 m + 0.1 g`` with the
    gradient of the step, which is kept beside theta.

    Args:
      replica: of a weight whose method asks for it.
      given: id of a replica -> (replica, its variable, its gradient or None).
      gradients: id of a replica -> its gradient of the whole step.
      complete: as for `count_steps`.
      update: the call of the optimizer.
    """
    _, variable, _ = given.get(id(replica), (None, None, None))
    found = None if variable is None else momentum_slot(update.optimizer, variable)
    if found is not None:
        copies = components(raw_variable(found))
        return copies[replica.index % len(copies)].read_value()
    average = replica.auxiliary_variable(AVERAGE)
    before = average.read_value()
    gradient = gradients.get(id(replica))
    if gradient is None:
        return before
    taken = replica.counters.read_value()[Counter.PENDING] > 0
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


def _groups(updated: Iterable[WeightReplica]) -> list[list[WeightReplica]]:
    """The components that share a budget with those updated, budget by budget."""
    groups, grouped = [], set()
    for replica in updated:
        if id(replica) not in grouped:
            groups.append(replica.peers())
            grouped.update(map(id, groups[-1]))
    return groups


def _needs_momentum(replica: WeightReplica) -> bool:
    return replica.weight.method.needs_momentum and not replica.weight.exempt


def _by_component(update: hooks.Update) -> dict[int, tuple]:
    gradients = dict(enumerate(update.gradients))
    found = {}
    for i, variable in enumerate(update.variables):
        replica = local_replica(variable)
        if replica is not None:
            found[id(replica)] = replica, variable, gradients.get(i)
    return found


def _over_replicas(gradient: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradient
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
