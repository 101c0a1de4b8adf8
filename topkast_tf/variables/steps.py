"""Work around an optimizer's step: method inputs, step counts, updates of the sets."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.sets import FORWARD, masked
from topkast_tf.methods.base import GRADIENT, MOMENTUM, RESET
from topkast_tf.variables import hooks
from topkast_tf.variables.components import local_component
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.refresh import (
    count_steps,
    update_in_place_of_step,
)
from topkast_tf.variables.replica import WeightReplica, local, local_replica
from topkast_tf.variables.select_sets import Observed
from topkast_tf.variables.views import on_backward

REDUCED = "_topkast_gradients_are_reduced"
"""Attribute of an optimizer whose gradients are already summed over replicas."""
AVERAGE = "average"
"""Name of the auxiliary variable, in theta's shape, for an average of gradients."""
DECAY = 0.9


@contextlib.contextmanager
def counting(update: hooks.Update) -> Iterator[None]:
    """Counts one optimizer step of each sparse variable that the call has updated.

    Entered around the call: the gradients are read before it, because Keras clears its
    accumulators in it.
    """
    given = _given(update)
    for each in given.values():
        each.replica.weight.check_pruned()
    if any(_moves_slots(each.replica) for each in given.values()):
        compat.build_optimizer(update.optimizer, update.variables)
    groups = _groups(each.replica for each in given.values())
    complete = _is_complete(update.optimizer)
    gradients = {
        key: _of_the_network(
            each.replica,
            whole_gradient(update.optimizer, each.variable, each.gradient),
        )
        for key, each in given.items()
        if _looks_at_gradient(each, update.optimizer)
    }
    replacing = [group for group in groups if group[0].weight.method.replaces_step]
    following = [group for group in groups if not group[0].weight.method.replaces_step]

    def observed_of(some: Sequence[Sequence[WeightReplica]]) -> dict[int, Observed]:
        return {
            id(member): _observed(member, given, gradients, complete, update)
            for group in some
            for member in group
        }

    if replacing:
        observed = observed_of(replacing)
        update.replaced = update_in_place_of_step(replacing, observed, complete)
    _mask_gradients(update, given, complete)
    yield
    observed = observed_of(following)
    if groups:
        if update.replaced is not None:
            taken = ~update.replaced
            complete = taken if complete is None else complete & taken
        count_steps(groups, observed, complete)


hooks.around_update.append(counting)


class _Given(NamedTuple):
    """A sparse variable that an optimizer is about to update."""

    replica: WeightReplica
    variable: Any
    gradient: Any
    position: int


def _given(update: hooks.Update) -> dict[int, _Given]:
    """id of a replica -> the optimizer's input for it."""
    gradients = dict(enumerate(update.gradients))
    found = {}
    for i, variable in enumerate(update.variables):
        replica = local_replica(variable)
        if replica is not None:
            found[id(replica)] = _Given(replica, variable, gradients.get(i), i)
    return found


def _moves_slots(replica: WeightReplica) -> bool:
    """Whether an update of its sets also changes the optimizer's slots."""
    method = replica.weight.method
    return method.resets or method.slots == RESET or replica.entries is not None


def _asks_for(replica: WeightReplica, name: str) -> bool:
    return name in replica.weight.method.inputs and not replica.weight.exempt


def _looks_at_gradient(given: _Given, optimizer: Any) -> bool:
    if given.gradient is None:
        return False
    averages = (
        _asks_for(given.replica, MOMENTUM)
        and momentum_slot(optimizer, given.variable) is None
    )
    return averages or _asks_for(given.replica, GRADIENT)


def _of_the_network(replica: WeightReplica, gradient: tf.Tensor) -> tf.Tensor:
    """A gradient without the contribution of a regularizer of alpha."""
    regularizer, replica.decayed_by = replica.decayed_by, None
    if regularizer is None:
        return gradient
    on = tf.equal(replica.sets.read_value(), FORWARD)
    alpha = masked(tf.cast(replica.read_theta(), gradient.dtype), on)
    with tf.GradientTape() as tape:
        tape.watch(alpha)
        penalty = regularizer(alpha)
    return gradient - tape.gradient(penalty, alpha)


def _mask_gradients(
    update: hooks.Update, given: Mapping[int, _Given], complete: tf.Tensor | None
) -> None:
    """Leaves the optimizer only the gradient on B, and zero elsewhere.

    If a method uses the gradient, the gradient arrives unmasked. With accumulated
    batches the method uses the gradient of all of them together, so the sum stays
    unmasked until the last one.

    With slots that are zero outside B, what reaches entries outside B by another way than
    alpha, such as a regularizer of theta, is left out as well: packed storage has no place
    for it.
    """
    for replica, variable, gradient, position in given.values():
        if gradient is None or replica.entries is not None:
            continue
        of_all = _asks_for(replica, GRADIENT)
        if not of_all and replica.weight.method.slots != RESET:
            continue
        gradient = tf.convert_to_tensor(gradient)
        kept = on_backward(replica.sets.read_value())
        if complete is None or not of_all:
            update.gradients[position] = masked(gradient, kept)
            continue
        kept |= ~complete
        update.gradients[position] = masked(gradient, kept)
        total = _accumulated(update.optimizer, variable)
        if total is not None:
            total.assign(masked(total.read_value(), kept))


def _observed(
    replica: WeightReplica,
    given: Mapping[int, _Given],
    gradients: Mapping[int, tf.Tensor],
    complete: tf.Tensor | None,
    update: hooks.Update,
) -> Observed:
    """A replica's observations in a step: the inputs of its method, and the slots."""
    inputs, key = {}, id(replica)
    if _asks_for(replica, GRADIENT) and key in gradients:
        inputs[GRADIENT] = gradients[key]
    if _asks_for(replica, MOMENTUM):
        inputs[MOMENTUM] = _momentum(replica, given, gradients, complete, update)
    if key not in given or not _moves_slots(replica):
        return Observed(inputs)
    variable = given[key].variable
    average = None
    if replica.entries is not None or replica.weight.method.resets:
        average = compat.moving_average(update.optimizer, variable)
    slots = slots_of(update.optimizer, variable)
    kept = momentum_slot(update.optimizer, variable)
    momentum = None if kept is None else local_component(kept)
    return Observed(
        inputs,
        slots,
        next((i for i, slot in enumerate(slots) if slot is momentum), None),
        None if average is None else local_component(average),
    )


def _momentum(
    replica: WeightReplica,
    given: Mapping[int, _Given],
    gradients: Mapping[int, tf.Tensor],
    complete: tf.Tensor | None,
    update: hooks.Update,
) -> tf.Tensor:
    """The momentum of a replica after an optimizer step, in theta's shape.

    It is the optimizer's own, or, if it has none, ``m <- 0.9 m + 0.1 g`` with g the
    gradient of the step, stored in an auxiliary variable.

    Args:
      replica: a replica of a weight whose method requests it.
      given: id of a replica -> the optimizer's input for it.
      gradients: id of a replica -> its gradient of the whole step.
      complete: as for `count_steps`.
      update: the call of the optimizer.
    """
    own = given.get(id(replica))
    found = None if own is None else momentum_slot(update.optimizer, own.variable)
    if found is not None:
        return local(found, replica.index).read_value()
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
    """Whether this call of an optimizer updates variables; None if all calls do.

    A Keras 3 optimizer with ``gradient_accumulation_steps=n`` updates in every n-th
    call, and only accumulates gradients in the others.
    """
    every = getattr(optimizer, "gradient_accumulation_steps", None)
    if not every:
        return None
    calls = tf.convert_to_tensor(compat.calls(optimizer))
    return tf.equal((calls + 1) % every, 0)


def whole_gradient(optimizer: Any, variable: Any, gradient: Any) -> tf.Tensor:
    """The gradient of a step, over all replicas and all accumulated batches.

    ``sum over replicas of (accumulated + gradient) / accumulation steps``: the gradient
    that the optimizer is about to use, before clipping. Call it before the update.

    Args:
      optimizer: a Keras 3 or tf_keras optimizer.
      variable: a variable that it updates.
      gradient: the gradient in this call.

    Returns:
      A float32 tensor in the variable's shape. Before the last accumulated batch it
      covers only the batches so far.
    """
    gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    if every := getattr(optimizer, "gradient_accumulation_steps", None):
        if (total := _accumulated(optimizer, variable)) is not None:
            gradient += tf.cast(total.read_value(), tf.float32)
        gradient /= every
    if scale := getattr(optimizer, "loss_scale_factor", None):
        gradient /= scale
    if getattr(optimizer, REDUCED, False):
        return gradient
    return _over_replicas(gradient)


def _accumulated(optimizer: Any, variable: Any) -> tf.Variable | None:
    """The optimizer's accumulated gradient of a variable, or None."""
    total = compat.accumulated_gradient(optimizer, variable)
    return None if total is None else local_component(total)


def slots_of(optimizer: Any, variable: Any) -> list[tf.Variable]:
    """This replica's optimizer slots of a variable that have the variable's shape.

    Momentum, second moments and the like, with one entry for each entry of the variable.
    Statistics of rows and columns (Adafactor's) are not included.

    Args:
      optimizer: a built Keras 3 or tf_keras optimizer.
      variable: a variable that it updates.

    >>> import keras
    >>> optimizer, variable = keras.optimizers.Adam(), keras.Variable([1.0, 2.0])
    >>> optimizer.build([variable])
    >>> len(slots_of(optimizer, variable))
    2
    """
    index = compat.index_of(optimizer, variable)
    count = compat.variable_count(optimizer)
    found = []
    for name, kept in vars(optimizer).items():
        if name in compat.NO_SLOTS or not isinstance(kept, list) or len(kept) != count:
            continue
        slot = kept[index]
        if hasattr(slot, "assign") and tuple(slot.shape) == tuple(variable.shape):
            found.append(local_component(slot))
    return found


def momentum_slot(optimizer: Any, variable: Any) -> Any:
    """The optimizer's momentum of a variable, or None if it has none.

    Args:
      optimizer: of Keras 3 or tf_keras: SGD with momentum, Adam and its relatives,
        RMSprop with momentum, Lion, Lamb.
      variable: a variable that it updates.

    Returns:
      A variable in the shape of the given one.
    """
    kept = compat.momentums(optimizer)
    return kept[compat.index_of(optimizer, variable)] if kept else None


def _groups(updated: Iterable[WeightReplica]) -> list[list[WeightReplica]]:
    """The replicas that share a budget with an updated one, grouped by budget."""
    groups, grouped = [], set()
    for replica in updated:
        if id(replica) not in grouped:
            groups.append(replica.peers())
            grouped.update(map(id, groups[-1]))
    return groups


def _over_replicas(gradient: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradient
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
