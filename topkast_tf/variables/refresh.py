"""Selecting the sets of weights anew, and counting the steps that lead to it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.core.sets import chosen
from topkast_tf.methods.base import GRADIENT, Selection, Sets
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica

NAN_MESSAGE = (
    "Expected finite weights when the sparse sets are selected, but the weight holds "
    "NaN. Lower the learning rate or clip the gradients, and resume from a checkpoint "
    "from before. Received: NaN in"
)


@dataclasses.dataclass(frozen=True)
class Observed:
    """What an optimizer's step has shown of one replica of a weight.

    Attributes:
      inputs: what the method asks for (`methods.base.INPUTS`) -> a tensor in theta's
        shape; without it where it is not known.
      slots: the optimizer's variables of theta's shape that belong to the weight, the
        components of this replica.
    """

    inputs: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    slots: Sequence[tf.Variable] = ()


_NOTHING = Observed()


def select_initial(members: Sequence[WeightReplica]) -> None:
    """Selects the first sets of replicas that share one budget, from thetas as they are.

    A NaN leaves the sets as they are and is an error: at once, or, where compiled code
    cannot raise (XLA), when the weight is next looked at from Python.

    Args:
      members: the replicas.
    """
    _select_now(members, lambda method, brought, _: method.initial(brought))


def reselect(members: Sequence[WeightReplica]) -> None:
    """As `select_initial`, when a person asks for it."""
    _select_now(members, lambda method, *arguments: method.reselect(*arguments))


def _select_now(members: Sequence[WeightReplica], select_by: Callable) -> None:
    counters = tf.stack([member.counters.read_value() for member in members])
    brought = _brought(members, counters)
    method = members[0].weight.method
    found = select_by(method, brought, counters[0, Counter.STEP])
    _write(members, brought, found)
    after = _with_found(counters, [found], tf.constant(True, shape=[len(members)]))
    for member, own in zip(members, tf.unstack(after), strict=True):
        member.counters.assign(own)
    _raise_unless(found.finite, members)


def _brought(
    members: Sequence[WeightReplica],
    counters: tf.Tensor,
    observed: Mapping[int, Observed] | None = None,
) -> list[Selection]:
    """What replicas bring to a selection.

    Args:
      members: the replicas.
      counters: theirs, one a row.
      observed: id of a replica -> what its step has shown.
    """
    # By column, and not by row: a deep model has many rows.
    columns = [
        tf.unstack(tf.cast(counters[:, entry], dtype))
        for entry, dtype in (
            (Counter.KEPT_FORWARD, tf.int32),
            (Counter.KEPT_BACKWARD, tf.int32),
            (Counter.SEED, tf.int64),
            (Counter.THRESHOLD, tf.int64),
        )
    ]
    return [
        Selection(
            theta=member.read_theta(),
            kept_forward=kept_forward,
            kept_backward=kept_backward,
            seed=seed,
            blocks=member.weight.blocks,
            threshold=threshold,
            sets=member.sets.read_value(),
            schedule=member.weight.schedule,
            **(observed or {}).get(id(member), _NOTHING).inputs,
        )
        for member, kept_forward, kept_backward, seed, threshold in zip(
            members, *columns, strict=True
        )
    ]


def select(
    members: Sequence[WeightReplica],
    brought: Sequence[Selection],
    step: tf.Tensor,
    due: tf.Tensor,
    observed: Mapping[int, Observed],
) -> Sets:
    """Updates and writes the sets of replicas; their counters are left to be written.

    Args:
      members: the replicas that share one budget.
      brought: what they bring.
      step: integer scalar, the step at which the sets take effect.
      due: boolean scalar, whether to write them.
      observed: id of a replica -> what its step has shown.
    """
    found = members[0].weight.method.update(brought, step)
    _write(members, brought, found, due, observed)
    return found


def _write(
    members: Sequence[WeightReplica],
    brought: Sequence[Selection],
    found: Sets,
    due: tf.Tensor | None = None,
    observed: Mapping[int, Observed] | None = None,
) -> None:
    # The sets have been selected from theta before anything may raise, and are written
    # only if they mean something.
    meant = found.finite if due is None else found.finite & due
    for member, each, codes in zip(members, brought, found.codes, strict=True):
        member.sets.assign(chosen(meant, codes, each.sets))
    for member, each, reset in zip(
        members, brought, found.resets or [None] * len(members), strict=True
    ):
        if reset is None:
            continue
        entries = reset.entries & meant
        member.write_theta(chosen(entries, reset.theta, each.theta))
        for slot in (observed or {}).get(id(member), _NOTHING).slots:
            value = tf.cast(reset.slots, slot.dtype)
            slot.assign(chosen(entries, value, slot.read_value()))


def _with_found(
    counters: tf.Tensor, found: Sequence[Sets], due: tf.Tensor
) -> tf.Tensor:
    """Counters, one a row, with what selections have found where they were due."""
    columns = tf.unstack(counters, axis=1)

    def replace(entry: int, values: Sequence[Any]) -> None:
        before = tf.unstack(columns[entry])
        after = [
            old if value is None else tf.cast(value, tf.int64)
            for old, value in zip(before, values, strict=True)
        ]
        columns[entry] = tf.where(due, tf.stack(after), columns[entry])

    def of_each(name: str) -> list[Any]:
        given = ((getattr(sets, name), len(sets.codes)) for sets in found)
        return [x for values, count in given for x in values or [None] * count]

    replace(Counter.FAULTY, [~sets.finite for sets in found for _ in sets.codes])
    for entry, name in (
        (Counter.THRESHOLD, "thresholds"),
        (Counter.KEPT_FORWARD, "kept_forward"),
    ):
        values = of_each(name)
        if any(value is not None for value in values):
            replace(entry, values)
    return tf.stack(columns, axis=1)


def _raise_unless(finite: tf.Tensor, members: Sequence[WeightReplica]) -> None:
    """Raises if sets were selected that mean nothing, where what runs can raise."""
    paths = ", ".join(member.weight.path for member in members)
    message = f"{NAN_MESSAGE} {paths}."
    if tf.executing_eagerly() and not finite:
        raise ValueError(message)
    # Not `tf.debugging.Assert`, which makes a `tf.cond` of its own.
    tf.raw_ops.Assert(condition=finite, data=[message], summarize=1)


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
    for alike in _by_method(groups):
        _count_steps(alike, observed or {}, complete)


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
        # What the method has remembered as a threshold is the step after its update.
        is_new = tf.not_equal(before[:, Counter.THRESHOLD], steps + 1)
        due = is_new & (before[:, Counter.FROZEN] < 1) & _due(members, steps, observed)
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
        brought = _brought(members, counters, observed)
        found, finite = [], []
        for own in _owned_slices(groups):
            if not all(_can_update(member, observed) for member in members[own]):
                sets = [each.sets for each in brought[own]]
                found.append(Sets(sets, tf.constant(True)))
                finite.append(tf.constant(True))
                continue
            any_due = tf.reduce_any(due[own])
            step = each_step[own.start]
            found.append(select(members[own], brought[own], step, any_due, observed))
            finite.append(found[-1].finite | ~any_due)
        return _with_found(counters, found, due), tf.stack(finite)

    def update_none():
        if moves_between:
            _move_between(members, counters, moves)
        return counters, tf.constant(True, shape=[len(groups)])

    return tf.cond(tf.reduce_any(due), update_due, update_none)


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
        _raise_unless(each, group)


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


def _can_update(member: WeightReplica, observed: Mapping[int, Observed]) -> bool:
    """Whether the gradient is known that the method of a replica looks at, if it does."""
    return (
        GRADIENT not in member.weight.method.inputs
        or GRADIENT in observed.get(id(member), _NOTHING).inputs
    )


def _move_between(
    members: Sequence[WeightReplica], counters: tf.Tensor, pending: tf.Tensor
) -> None:
    """What the method does with the sets of replicas between two updates."""
    brought = _brought(members, counters)
    steps, counts = tf.unstack(counters[:, Counter.STEP]), tf.unstack(pending)
    for i, member in enumerate(members):
        codes = member.weight.method.update_between_refreshes(brought[i], steps[i])
        member.sets.assign(chosen(counts[i], codes, brought[i].sets))


def done(*_: Any) -> tf.Tensor:
    """What a branch of `tf.cond` returns that was run for its effects."""
    return tf.constant(True)
