"""Counting optimizer steps, and refreshing the sets at the steps where that is due."""

import itertools
from collections.abc import Mapping, Sequence

import tensorflow as tf

from topkast_tf.core import packing
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sets import chosen, masked
from topkast_tf.methods.base import GRADIENT, RESET, Sets
from topkast_tf.variables import serving
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica
from topkast_tf.variables.select_sets import (
    NOTHING,
    Observed,
    raise_unless,
    refresh_natively,
    select,
    selections_of,
    with_found,
)
from topkast_tf.variables.views import on_backward

SELECTION = "select_sets"
"""The name of the condition in a step's graph within which sets are selected."""


def count_steps(
    groups: Sequence[Sequence[WeightReplica]],
    observed: Mapping[int, Observed] | None = None,
    complete: tf.Tensor | None = None,
) -> None:
    """Counts an optimizer step where thetas were updated, and refreshes what is due.

    Whether they were updated is known only in the graph: an optimizer that accumulates
    gradients, or scales the loss, updates in some of its calls. All weights of a method
    are handled together: a graph with one `tf.cond`, and not with one for each weight.

    Args:
      groups: of replicas, on one device, that share one budget each.
      observed: id of a replica -> what its step has shown.
      complete: boolean scalar, False while an optimizer only accumulates gradients:
        constraints and averages, which Keras applies all the same, are no step. None
        is True.
    """
    observed = observed or {}
    for alike in _by_method(groups):
        served: dict[tuple[str, bool, str | None], list[WeightReplica]] = {}
        is_served = [_is_served(group, observed) for group in alike]
        for group in itertools.compress(alike, is_served):
            # An operation runs on the one device of its variables.
            weight = group[0].weight
            kind = group[0].theta.device, weight.packed is not None, weight.theta_dir
            served.setdefault(kind, []).extend(group)
        for members in served.values():
            refresh_natively(members, complete, observed)
        rest = [group for group, its in zip(alike, is_served, strict=True) if not its]
        if rest:
            _count_steps(rest, observed, complete)


def _is_served(
    group: Sequence[WeightReplica], observed: Mapping[int, Observed]
) -> bool:
    """Whether a native operation counts the steps of a group and selects its sets."""
    weight, seen = group[0].weight, observed.get(id(group[0]), NOTHING)
    if weight.packed is None:
        suits = weight.method.slots != RESET
    else:
        suits = seen.average is None and all(
            slot.dtype == tf.float32 for slot in seen.slots
        )
    return (
        len(group) == 1
        and suits
        and weight.method.nests_by_magnitude
        and type(weight.schedule) is RefreshSchedule
        and weight.schedule == weight.method.schedule
        and serving.serves(group[0])
    )


def update_in_place_of_step(
    groups: Sequence[Sequence[WeightReplica]],
    observed: Mapping[int, Observed],
    complete: tf.Tensor | None = None,
) -> tf.Tensor:
    """Updates the sets that are due before the step that an optimizer is about to take.

    For methods whose update takes the place of that step. An update at step t is made
    once: the next call, which is still at step t, is a step.

    Args:
      groups: as for `count_steps`.
      observed: id of a replica -> what its step has shown.
      complete: as for `count_steps`.

    Returns:
      Boolean scalar, whether anything was due, so that the optimizer is to leave
      everything as it is.
    """
    any_due = []
    for alike in _by_method(groups):
        members = [member for group in alike for member in group]
        before = tf.stack([member.counters.read_value() for member in members])
        steps = before[:, Counter.STEP]
        method = members[0].weight.method
        is_made = method.was_updated(steps, before[:, Counter.THRESHOLD])
        due = (
            ~is_made & (before[:, Counter.FROZEN] < 1) & _due(members, steps, observed)
        )
        if complete is not None:
            due &= complete
        after, finite = _updated(alike, before, due, observed)
        _write_counters(alike, after, finite)
        any_due.append(tf.reduce_any(due))
    return tf.reduce_any(tf.stack(any_due))


def _by_method(
    groups: Sequence[Sequence[WeightReplica]],
) -> list[list[Sequence[WeightReplica]]]:
    by_method: dict[int, list[Sequence[WeightReplica]]] = {}
    for group in groups:
        by_method.setdefault(id(group[0].weight.method), []).append(group)
    return list(by_method.values())


def _count_steps(
    groups: Sequence[Sequence[WeightReplica]],
    observed: Mapping[int, Observed],
    complete: tf.Tensor | None,
) -> None:
    method = groups[0][0].weight.method
    members = [member for group in groups for member in group]
    group_of = [i for i, group in enumerate(groups) for _ in group]
    before = tf.stack([member.counters.read_value() for member in members])
    own_steps = before[:, Counter.STEP]
    # A group takes its steps together, those of its first member.
    waiting = tf.math.unsorted_segment_max(
        before[:, Counter.PENDING], group_of, len(groups)
    )
    pending = tf.gather(waiting, group_of) > 0
    if complete is not None:
        pending &= complete
    first = [own.start for own in _owned_slices(groups)]
    group_steps = tf.gather(own_steps, [first[i] for i in group_of])
    steps = tf.where(pending, group_steps + 1, own_steps)
    kept = before[:, Counter.PENDING + 1 :]
    counted = tf.concat([steps[:, None], tf.zeros_like(steps)[:, None], kept], axis=1)
    if method.replaces_step:  # its update comes before the next step
        _write_counters(groups, counted)
        return
    moves = pending & (before[:, Counter.FROZEN] < 1)
    due = moves & _due(members, steps, observed)
    after, finite = _updated(groups, counted, due, observed, moves)
    _write_counters(groups, after, finite)


def _updated(
    groups: Sequence[Sequence[WeightReplica]],
    counters: tf.Tensor,
    due: tf.Tensor,
    observed: Mapping[int, Observed],
    moves: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Updates the sets of groups where they are due.

    Args:
      groups: of one method.
      counters: of all members, one a row.
      due: of each member.
      observed: id of a replica -> what its step has shown.
      moves: whether the sets of each member may move between two updates.

    Returns:
      The counters afterwards; of each group, whether its sets mean something.
    """
    method = groups[0][0].weight.method
    members = [member for group in groups for member in group]
    group_of = [i for i, group in enumerate(groups) for _ in group]
    moves_between = method.updates_between_refreshes and moves is not None

    def update_due():
        each_step = tf.unstack(counters[:, Counter.STEP])
        if moves_between:
            selected = tf.math.unsorted_segment_max(
                tf.cast(due, tf.int32), group_of, len(groups)
            )
            selected = tf.gather(selected, group_of) > 0
            _move_between(members, counters, moves & ~selected)
        selections = selections_of(members, counters, observed)
        found, finite = [], []
        for own in _owned_slices(groups):
            if not _can_be_updated(members[own], observed):
                sets = [each.sets for each in selections[own]]
                found.append(Sets(sets, tf.constant(True)))
                finite.append(tf.constant(True))
                continue
            any_due = tf.reduce_any(due[own])
            step = each_step[own.start]
            found.append(select(members[own], selections[own], step, any_due, observed))
            for member, selection in zip(members[own], selections[own], strict=True):
                _have_slots_follow(member, selection.sets, observed)
            finite.append(found[-1].finite | ~any_due)
        return with_found(counters, found, due), tf.stack(finite)

    def update_none():
        if moves_between:
            _move_between(members, counters, moves)
        return counters, tf.constant(True, shape=[len(groups)])

    return tf.cond(tf.reduce_any(due), update_due, update_none, name=SELECTION)


def _have_slots_follow(
    member: WeightReplica, before: tf.Tensor, observed: Mapping[int, Observed]
) -> None:
    """The optimizer's slots after an update of the sets, if those outside B are zero.

    Those of packed entries move with their weights.
    """
    if member.weight.method.slots != RESET and member.entries is None:
        return
    after = member.sets.read_value()
    seen = observed.get(id(member), NOTHING)
    if seen.average is not None and member.entries is not None:
        # Outside B nothing has moved, so that the average is the weight itself.
        average = seen.average.read_value()
        theta = member.read_theta()
        seen.average.assign(packing.repacked(average, before, after, theta))
    for slot in seen.slots:
        value = slot.read_value()
        if member.entries is None:
            slot.assign(masked(value, on_backward(after)))
        else:
            slot.assign(packing.repacked(value, before, after, None))


def _owned_slices(groups: Sequence[Sequence[WeightReplica]]) -> list[slice]:
    """Where the members of each group lie among all of them."""
    ends = list(itertools.accumulate(map(len, groups)))
    return list(map(slice, [0, *ends[:-1]], ends))


def _write_counters(
    groups: Sequence[Sequence[WeightReplica]],
    counters: tf.Tensor,
    finite: tf.Tensor | None = None,
) -> None:
    members = [member for group in groups for member in group]
    for member, own in zip(members, tf.unstack(counters), strict=True):
        member.counters.assign(own)
    if finite is None:  # nothing was selected
        return
    for group, each in zip(groups, tf.unstack(finite), strict=True):
        raise_unless(each, group)


def _due(
    members: Sequence[WeightReplica], steps: tf.Tensor, observed: Mapping[int, Observed]
) -> tf.Tensor:
    """Whether the sets of each replica are updated at its step.

    Where the gradient that its method looks at is missing, they stay.
    """
    schedules = [member.weight.schedule for member in members]
    due = tf.zeros_like(steps, tf.bool)
    for schedule in dict.fromkeys(schedules):
        follows_it = tf.constant([each == schedule for each in schedules])
        due |= follows_it & schedule.due(steps)
    able = [_can_update(member, observed) for member in members]
    return due if all(able) else due & tf.constant(able)


def _can_be_updated(
    group: Sequence[WeightReplica], observed: Mapping[int, Observed]
) -> bool:
    """Whether the gradients that a budget's method looks at are known; raises for some."""
    able = [_can_update(member, observed) for member in group]
    if any(able) and not all(able):
        missing = [
            m.weight.path for m, is_able in zip(group, able, strict=True) if not is_able
        ]
        raise ValueError(
            f"Expected a gradient of each weight that shares a budget, which the method "
            f"{group[0].weight.method.name!r} selects by: name the others in `exempt`. "
            f"Received: none of {', '.join(missing)}, as of a frozen layer"
        )
    return all(able)


def _can_update(member: WeightReplica, observed: Mapping[int, Observed]) -> bool:
    """Whether the gradient is known that the method of a replica looks at, if it does."""
    return (
        GRADIENT not in member.weight.method.inputs
        or GRADIENT in observed.get(id(member), NOTHING).inputs
    )


def _move_between(
    members: Sequence[WeightReplica], counters: tf.Tensor, pending: tf.Tensor
) -> None:
    """What the method does with the sets of replicas between two updates."""
    selections = selections_of(members, counters)
    steps, counts = tf.unstack(counters[:, Counter.STEP]), tf.unstack(pending)
    for i, member in enumerate(members):
        codes = member.weight.method.update_between_refreshes(selections[i], steps[i])
        member.sets.assign(chosen(counts[i], codes, selections[i].sets))
