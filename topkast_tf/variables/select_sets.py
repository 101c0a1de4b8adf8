"""Selecting the sets of weights and writing them, with what optimizer steps have shown."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.core.sets import chosen
from topkast_tf.kernels import training
from topkast_tf.methods.base import ZERO, Selection, Sets
from topkast_tf.methods.checks import checked
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica

NAN_MESSAGE = (
    "Expected finite weights, and gradients where the method uses them, when the sparse "
    "sets are selected. Lower the learning rate or clip the gradients, and resume from a "
    "checkpoint from before. Received: NaN in"
)


@dataclasses.dataclass(frozen=True)
class Observed:
    """What an optimizer's step has shown of one replica of a weight.

    Attributes:
      inputs: what the method asks for (`methods.base.INPUTS`) -> a tensor in theta's
        shape; without it where it is not known.
      slots: the optimizer's variables of theta's shape that belong to the weight, the
        components of this replica.
      momentum: which of the slots has the momentum; None if none has.
      average: the optimizer's average of theta or of its packed entries, or None.
    """

    inputs: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    slots: Sequence[tf.Variable] = ()
    momentum: int | None = None
    average: tf.Variable | None = None


NOTHING = Observed()
"""For a replica that nothing is known of."""


def select_initial(members: Sequence[WeightReplica]) -> None:
    """Selects the first sets of replicas that share one budget, from thetas as they are.

    A NaN leaves the sets as they are and is an error: at once, or, where compiled code
    cannot raise (XLA), when the weight is next looked at from Python.

    Args:
      members: the replicas.
    """
    _select_now(members, lambda method, selections, _: method.initial(selections))


def reselect(members: Sequence[WeightReplica]) -> None:
    """As `select_initial`, where a user asks for it (`topkast_tf.refresh`)."""
    _select_now(members, lambda method, *arguments: method.reselect(*arguments))


def _select_now(members: Sequence[WeightReplica], select_by: Callable) -> None:
    counters = tf.stack([member.counters.read_value() for member in members])
    selections = selections_of(members, counters)
    method = members[0].weight.method
    found = select_by(method, selections, counters[0, Counter.STEP])
    found = checked(method, found, selections)
    _write(members, selections, found)
    after = with_found(counters, [found], tf.constant(True, shape=[len(members)]))
    for member, own in zip(members, tf.unstack(after), strict=True):
        member.counters.assign(own)
    raise_unless(found.finite, members)


def selections_of(
    members: Sequence[WeightReplica],
    counters: tf.Tensor,
    observed: Mapping[int, Observed] | None = None,
) -> list[Selection]:
    """The input of a method: one `Selection` for each replica.

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
            theta=member.weight.scored(member.read_theta()),
            kept_forward=kept_forward,
            kept_backward=kept_backward,
            seed=seed,
            blocks=member.weight.blocks,
            threshold=threshold,
            sets=member.sets.read_value(),
            schedule=member.weight.schedule,
            trained=member.trained(),
            view=member.weight.view,
            **(observed or {}).get(id(member), NOTHING).inputs,
        )
        for member, kept_forward, kept_backward, seed, threshold in zip(
            members, *columns, strict=True
        )
    ]


def select(
    members: Sequence[WeightReplica],
    selections: Sequence[Selection],
    step: tf.Tensor,
    due: tf.Tensor,
    observed: Mapping[int, Observed],
) -> Sets:
    """Updates and writes the sets of replicas; their counters are left to be written.

    Args:
      members: the replicas that share one budget.
      selections: the input of the method, one for each.
      step: integer scalar, the step at which the sets take effect.
      due: boolean scalar, whether to write them.
      observed: id of a replica -> what its step has shown.
    """
    method = members[0].weight.method
    found = checked(method, method.update(selections, step), selections, updates=True)
    _write(members, selections, found, due, observed)
    return found


def _write(
    members: Sequence[WeightReplica],
    selections: Sequence[Selection],
    found: Sets,
    due: tf.Tensor | None = None,
    observed: Mapping[int, Observed] | None = None,
) -> None:
    # The sets have been selected from theta before anything may raise, and are written
    # only if they mean something.
    meant = found.finite if due is None else found.finite & due
    for member, each, codes in zip(members, selections, found.codes, strict=True):
        member.sets.assign(chosen(meant, codes, each.sets))
    for member, each, trained in zip(
        members, selections, found.trained or [{}] * len(members), strict=True
    ):
        for name, value in trained.items():
            made = member.auxiliary_variable(name)
            made.assign(tf.where(meant, value, each.trained[name]))
    for member, each, reset in zip(
        members, selections, found.resets or [None] * len(members), strict=True
    ):
        if reset is None:
            continue
        entries = reset.entries & meant
        member.write_theta(_reset(entries, reset.theta, each.theta))
        seen = (observed or {}).get(id(member), NOTHING)
        if seen.average is not None:
            average = seen.average.read_value()
            seen.average.assign(_reset(entries, reset.theta, average))
        if reset.slots is None:
            continue
        for index, slot in enumerate(seen.slots):
            # Only a momentum may be any number: second moments are never negative.
            is_number = reset.slots is ZERO or index == seen.momentum
            value = reset.slots if is_number else ZERO
            slot.assign(_reset(entries, value, slot.read_value()))


def _reset(entries: tf.Tensor, value: tf.Tensor | int, before: tf.Tensor) -> tf.Tensor:
    """The new value where an entry is reset, and the one before elsewhere."""
    if value is ZERO:
        # Zeros in theta's shape would become a constant, which the graph holds from now on.
        return tf.where(entries, tf.zeros([], before.dtype), before)
    return chosen(entries, tf.cast(value, before.dtype), before)


def with_found(counters: tf.Tensor, found: Sequence[Sets], due: tf.Tensor) -> tf.Tensor:
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


def raise_unless(finite: tf.Tensor, members: Sequence[WeightReplica]) -> None:
    """Raises if sets were selected that mean nothing, where what runs can raise."""
    paths = ", ".join(member.weight.path for member in members)
    message = nan_message(paths)
    if tf.executing_eagerly() and not finite:
        raise ValueError(message)
    # Not `tf.debugging.Assert`, which makes a `tf.cond` of its own.
    tf.raw_ops.Assert(condition=finite, data=[message], summarize=1)


def nan_message(paths: str) -> str:
    """The message of an error about NaN in the weights with these paths."""
    return f"{NAN_MESSAGE} {paths}."


def refresh_natively(
    members: Sequence[WeightReplica],
    complete: tf.Tensor | None,
    observed: Mapping[int, Observed] | None = None,
) -> None:
    """Counts the pending steps of replicas, and selects the sets that are due.

    One operation for all, in place of a graph (`topkast_tf.variables.refresh`).

    Args:
      members: replicas of one method and one schedule, which select by magnitude, each
        with a budget of its own.
      complete: as for `count_steps`.
      observed: as for `count_steps`, with the slots of packed weights.
    """
    packed = [
        training.PackedVectors(
            member.entries,
            member.members,
            (observed or {}).get(id(member), NOTHING).slots,
        )
        for member in members
        if member.entries is not None
    ]
    schedule = members[0].weight.schedule
    messages = [nan_message(member.weight.path) for member in members]
    try:
        training.refresh(
            [member.theta for member in members],
            [member.sets for member in members],
            [member.counters for member in members],
            every=schedule.every,
            stop=schedule.stop_exploring_at,
            skipped=schedule.skipped,
            messages=messages,
            complete=complete,
            packed=packed,
            folder=members[0].weight.theta_dir,
        )
    except tf.errors.InvalidArgumentError as error:
        for message in messages:
            if message in error.message:
                raise ValueError(message) from error
        raise


def done(*_: Any) -> tf.Tensor:
    """What a branch of `tf.cond` returns that was run for its effects."""
    return tf.constant(True)
