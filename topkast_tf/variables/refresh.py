"""Selecting the sets of weights anew, and counting the steps that lead to it."""

import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.core.selection import chosen
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica

NAN_MESSAGE = (
    "Expected finite weights when the sparse sets are selected, but the weight holds "
    "NaN. Lower the learning rate or clip the gradients, and resume from a checkpoint "
    "from before. Received: NaN in"
)


def refresh(
    members: Sequence[WeightReplica], momenta: Sequence[tf.Tensor] | None = None
) -> None:
    """Selects the sets of the components anew, from their thetas as they are.

    A NaN leaves the sets as they are and is an error: at once, or, where compiled code
    cannot raise (XLA), when the weight is next looked at from Python.

    Args:
      members: the components that share one budget.
      momenta: theirs, in theta's shape, where the method asks for them and training
        has begun.
    """
    counters = tf.stack([member.counters.read_value() for member in members])
    found = select(
        members, _brought(members, counters, momenta), counters[0, Counter.STEP]
    )
    after = _with_found(counters, [found], tf.constant(True, shape=[len(members)]))
    for member, counters in zip(members, tf.unstack(after), strict=True):
        member.counters.assign(counters)
    _raise_unless(found.finite, members)


def _brought(
    members: Sequence[WeightReplica],
    counters: tf.Tensor,
    momenta: Sequence[tf.Tensor | None] | None = None,
) -> list[Selection]:
    """What components bring to a selection.

    Args:
      members: the components.
      counters: theirs, one a row.
      momenta: as for `refresh`.
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
            momentum=momentum,
            schedule=member.weight.schedule,
        )
        for member, momentum, kept_forward, kept_backward, seed, threshold in zip(
            members, momenta or [None] * len(members), *columns, strict=True
        )
    ]


def select(
    members: Sequence[WeightReplica],
    brought: Sequence[Selection],
    step: tf.Tensor,
    due: tf.Tensor | None = None,
) -> Sets:
    """Selects and writes the sets of components; their counters are left to be written.

    Args:
      members: the components that share one budget.
      brought: what they bring.
      step: integer scalar, the step at which the sets take effect.
      due: boolean scalar, whether to write them; None for always.
    """
    found = members[0].weight.method.select(brought, step)
    meant = found.finite if due is None else found.finite & due
    for member, each, code in zip(members, brought, found.codes, strict=True):
        # The sets have been selected from theta before anything may raise, and are
        # written only if they mean something.
        member.sets.assign(chosen(meant, code, each.sets))
    return found


def _with_found(
    counters: tf.Tensor, found: Sequence[Sets], due: tf.Tensor
) -> tf.Tensor:
    """Clocks, one a row, with what selections have found where they were due."""
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
    """Raises if sets were selected that mean nothing, as far as what runs can raise."""
    paths = ", ".join(member.weight.path for member in members)
    message = f"{NAN_MESSAGE} {paths}."
    if tf.executing_eagerly() and not finite:
        raise ValueError(message)
    # Not `tf.debugging.Assert`, which makes a `tf.cond` of its own.
    tf.raw_ops.Assert(condition=finite, data=[message], summarize=1)


def count_steps(
    groups: Sequence[Sequence[WeightReplica]],
    momenta: Sequence[Sequence[tf.Tensor] | None],
    complete: tf.Tensor | None = None,
) -> None:
    """Counts an optimizer step where thetas were updated, and refreshes what is due.

    Whether they were updated is known only in the graph: an optimizer that accumulates
    gradients, or scales the loss, updates in some of its calls. All weights of a method
    are handled together: a graph with one `tf.cond`, and not with one for each weight.

    Args:
      groups: of components, on one device, that share one budget each.
      momenta: of each group, as for `refresh`.
      complete: boolean scalar, False while an optimizer only accumulates gradients:
        constraints and averages, which Keras applies all the same, are no step. None
        is True.
    """
    by_method: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        by_method.setdefault(id(group[0].weight.method), []).append(i)
    for alike in by_method.values():
        _count_steps([groups[i] for i in alike], [momenta[i] for i in alike], complete)


def _count_steps(
    groups: Sequence[Sequence[WeightReplica]],
    momenta: Sequence[Sequence[tf.Tensor] | None],
    complete: tf.Tensor | None,
) -> None:
    method = groups[0][0].weight.method
    members = [member for group in groups for member in group]
    momenta = [
        momentum
        for group, each in zip(groups, momenta, strict=True)
        for momentum in each or [None] * len(group)
    ]
    group_of = [i for i, group in enumerate(groups) for _ in group]
    ends = list(itertools.accumulate(map(len, groups)))
    owned = list(map(slice, [0, *ends[:-1]], ends))
    before = tf.stack([member.counters.read_value() for member in members])
    own_steps = before[:, Counter.STEP]
    # A group takes its steps together, those of its first member.
    waiting = tf.math.unsorted_segment_max(
        before[:, Counter.PENDING], group_of, len(groups)
    )
    pending = tf.gather(waiting, group_of) > 0
    if complete is not None:
        pending &= complete
    group_steps = tf.gather(own_steps, [owned[i].start for i in group_of])
    steps = tf.where(pending, group_steps + 1, own_steps)
    kept = before[:, Counter.PENDING + 1 :]
    counted = tf.concat([steps[:, None], tf.zeros_like(steps)[:, None], kept], axis=1)
    moves = pending & (before[:, Counter.FROZEN] < 1)
    due = moves & _due(members, steps)

    def select_due():
        each_step = tf.unstack(steps)
        if method.updates_between_refreshes:
            selected = tf.math.unsorted_segment_max(
                tf.cast(due, tf.int32), group_of, len(groups)
            )
            _follow(members, counted, moves & ~(tf.gather(selected, group_of) > 0))
        brought = _brought(members, counted, momenta)
        found, finite = [], []
        for own in owned:
            any_due = tf.reduce_any(due[own])
            step = each_step[own.start]
            found.append(select(members[own], brought[own], step, any_due))
            finite.append(found[-1].finite | ~any_due)
        return _with_found(counted, found, due), tf.stack(finite)

    def select_none():
        if method.updates_between_refreshes:
            _follow(members, counted, moves)
        return counted, tf.constant(True, shape=[len(groups)])

    after, finite = tf.cond(tf.reduce_any(due), select_due, select_none)
    for member, counters in zip(members, tf.unstack(after), strict=True):
        member.counters.assign(counters)
    for group, each in zip(groups, tf.unstack(finite), strict=True):
        _raise_unless(each, group)


def _due(members: Sequence[WeightReplica], steps: tf.Tensor) -> tf.Tensor:
    """Whether the sets of each replica are selected at its step."""
    schedules = [member.weight.schedule for member in members]
    due = tf.zeros_like(steps, tf.bool)
    for schedule in dict.fromkeys(schedules):
        follows_it = tf.constant([each == schedule for each in schedules])
        due |= follows_it & schedule.due(steps)
    return due


def _follow(
    members: Sequence[WeightReplica], counters: tf.Tensor, pending: tf.Tensor
) -> None:
    """What the method does with the sets of components between two refreshes."""
    brought = _brought(members, counters)
    steps, counts = tf.unstack(counters[:, Counter.STEP]), tf.unstack(pending)
    for i, member in enumerate(members):
        codes = member.weight.method.update_between_refreshes(brought[i], steps[i])
        member.sets.assign(chosen(counts[i], codes, brought[i].sets))


def done(*_: Any) -> tf.Tensor:
    """What a branch of `tf.cond` returns that was run for its effects."""
    return tf.constant(True)
