"""Which units of a model can be removed, and why others cannot."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from topkast_tf.compaction.graph import Call, Graph, classes
from topkast_tf.compaction.passing import Passing, passing_of
from topkast_tf.compaction.products import (
    Product,
    is_product,
    product_of,
    why_whole,
    zero_outputs,
)

NOT_FINITE = "gives no finite constant"
Rule = Product | Passing | None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is removed from a model.

    Attributes:
      graph: the model's graph.
      rules: what each call does to units; None if it takes and gives all of them.
      constants: the constant of each unit, NaN if it is none.
      kept: boolean, for each unit.
      removed: per call of a product with removed outputs, their numbers in the layer.
      kept_dead: per product and reason, the dead outputs that are kept.
    """

    graph: Graph
    rules: Sequence[Rule]
    constants: np.ndarray
    kept: np.ndarray
    removed: dict[str, np.ndarray]
    kept_dead: dict[tuple[str, str], np.ndarray]


def decided(graph: Graph, keras: Any) -> Decision:
    """Decides which units of a model are removed.

    A unit is dead if it is a constant, or if no unit reads it that is kept. Units that
    are linked (by a sum, a normalization, ...) are removed if what is made of all of them
    is dead where it ends, in products, and these can hold the constant in their biases.

    Args:
      graph: the model's graph.
      keras: the Keras library.
    """
    rules = [_rule_of(call, keras) for call in graph.calls]
    constants, lost, ahead = _constants(graph, rules)
    links = [
        link for rule in rules if isinstance(rule, Passing) for link in rule.links()
    ]
    members = classes(graph.count, links)
    blocks = _Blocks(members)
    for units in graph.inputs:
        blocks.add(units.numbers, "it is added to an input of the model", alive=False)
    for units in graph.outputs:
        blocks.add(units.numbers, "it is an output of the model")
    for call, rule in zip(graph.calls, rules, strict=True):
        _block_by(call, rule, blocks, keras)
    removed = _settled(graph, rules, constants, lost, blocks)
    found: dict[str, np.ndarray] = {}
    left: dict[tuple[str, str], list[int]] = {}
    for call, rule in zip(graph.calls, rules, strict=True):
        if not is_product(call.layer, keras) or len(call.outputs) != 1:
            continue
        [output] = call.outputs
        if isinstance(rule, Product):
            gone = np.flatnonzero(removed[output.slice])
            if gone.size:
                found[call.layer.name] = gone
            is_dead = np.isfinite(constants[output.slice])
            is_dead |= ~blocks.alive[members[output.slice]]
            dead = np.flatnonzero(is_dead & ~removed[output.slice])
        else:
            dead = zero_outputs(call.layer)
        for unit in dead if output.size else ():
            number = output.first + unit
            reason = ahead[number] or blocks.reasons.get(members[number], "")
            left.setdefault((call.layer.name, reason), []).append(int(unit))
    kept_dead = {key: np.unique(units) for key, units in left.items()}
    return Decision(graph, rules, constants, ~removed, found, kept_dead)


def _rule_of(call: Call, keras: Any) -> Rule:
    tensors = (*call.inputs, *call.outputs)
    if not call.is_plain or not all(units.size for units in tensors):
        return None
    return product_of(call, keras) or passing_of(call, keras)


def _constants(
    graph: Graph, rules: Sequence[Rule]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The constants of a model's units.

    Returns:
      The constant of each unit, NaN if it is none; for such a unit, where a constant in it
      was lost, or None; and for a constant, where it will be lost, or None.
    """
    constants = np.full(graph.count, np.nan)
    lost = np.full(graph.count, None, object)
    for call, rule in zip(graph.calls, rules, strict=True):
        if rule is None:
            continue
        values = [constants[units.slice] for units in call.inputs]
        [output] = call.outputs
        if isinstance(rule, Product):
            constants[output.slice] = rule.constants(values[0])
            continue
        constants[output.slice] = rule.constants(values)
        for ours, theirs in rule.links():
            unknown = np.isnan(constants[theirs])
            here = unknown & ~np.isnan(constants[ours])
            lost[theirs[here]] = f"{call} {rule.uneven or NOT_FINITE}"
            before = unknown & (lost[ours] != None)  # noqa: E711, of each entry
            lost[theirs[before]] = lost[ours[before]]
    ahead = np.full(graph.count, None, object)
    for rule in reversed(rules):
        for ours, theirs in rule.links() if isinstance(rule, Passing) else ():
            for mine, made in zip(ours.tolist(), theirs.tolist(), strict=True):
                if not np.isnan(constants[mine]):
                    found = lost[made] if np.isnan(constants[made]) else ahead[made]
                    ahead[mine] = ahead[mine] or found
    return constants, lost, ahead


class _Blocks:
    """Classes of units that cannot be removed.

    Attributes:
      reasons: class -> the first reason.
      alive: boolean, at the number of a class: whether what is made of it is read.
    """

    def __init__(self, members: np.ndarray):
        self.members = members
        self.reasons: dict[int, str] = {}
        self.alive = np.zeros(members.size, bool)

    def add(self, units: np.ndarray, reason: str, alive: bool = True) -> None:
        """Blocks the classes of some units."""
        for number in self.members[units].tolist():
            self.reasons.setdefault(number, reason)
            self.alive[number] |= alive

    def copy(self) -> "_Blocks":
        """The same, to which more can be added."""
        made = _Blocks(self.members)
        made.reasons, made.alive = dict(self.reasons), self.alive.copy()
        return made

    def removed(self) -> np.ndarray:
        """Boolean, for each unit, whether nothing blocks its class."""
        is_blocked = np.zeros(self.members.size, bool)
        is_blocked[list(self.reasons)] = True
        return ~is_blocked[self.members]


def _block_by(call: Call, rule: Rule, blocks: _Blocks, keras: Any) -> None:
    """Blocks what a call cannot be without, whatever else is removed."""
    if isinstance(rule, Product) and rule.mixes:
        reason = f"the activation of {call} is not known to be computed unit by unit"
        blocks.add(call.outputs[0].numbers, reason)
    if rule is not None:
        return
    why = why_whole(call.layer) if is_product(call.layer, keras) else None
    if why is None and not call.is_only:
        why = "it is called more than once"
    if why is None and not call.is_plain:
        why = "it is called with further arguments"
    because = f": {why}" if why else ""
    for units in call.inputs:
        blocks.add(units.numbers, f"{call} needs all its inputs{because}")
    for units in call.outputs:
        blocks.add(units.numbers, f"{call} keeps all its outputs{because}", alive=False)


def _settled(
    graph: Graph,
    rules: Sequence[Rule],
    constants: np.ndarray,
    lost: np.ndarray,
    blocks: _Blocks,
) -> np.ndarray:
    """Which units are removed. What blocks the others is added to `blocks`."""
    while True:
        removed, found = np.zeros(graph.count, bool), blocks
        while True:
            found = blocks.copy()
            for call, rule in zip(graph.calls, rules, strict=True):
                if isinstance(rule, Product):
                    _block_read(call, rule, constants, lost, removed, found)
            more = found.removed()
            if np.array_equal(more, removed):
                break
            removed = more
        whole = [t for t in graph.tensors if t.size and removed[t.slice].all()]
        if not whole:
            blocks.reasons, blocks.alive = found.reasons, found.alive
            return removed
        first = min(whole, key=lambda units: units.first)
        reason = "a layer must keep a unit, and all others were removed"
        blocks.add(first.numbers[:1], reason, alive=False)


def _block_read(
    call: Call,
    rule: Product,
    constants: np.ndarray,
    lost: np.ndarray,
    removed: np.ndarray,
    blocks: _Blocks,
) -> None:
    """Blocks the inputs of a product that its remaining outputs read."""
    [units], [output] = call.inputs, call.outputs
    values = constants[units.slice]
    is_read = rule.reads[:, ~removed[output.slice]].any(1)
    held = is_read & ~rule.can_fold(values)
    for place in np.flatnonzero(held):
        number = units.first + place
        is_constant = np.isfinite(values[place])
        if is_constant:
            reason = f"{call} {rule.uneven}, and its constant is {values[place]:.3g}"
        else:
            reason = lost[number] or f"{call} reads it"
        blocks.add(units.numbers[place : place + 1], reason, alive=not is_constant)
