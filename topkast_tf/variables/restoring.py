"""Checks that restored state belongs to the weight, or weights, that it was loaded into."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.variables import saved_state
from topkast_tf.variables.counters import Counter


def check_weight(weight: Any, counters: np.ndarray, sets: np.ndarray) -> None:
    """Raises a ValueError unless saved state belongs to a weight like this one.

    The sets of a common budget are not counted here: `check_budget`.

    Args:
      weight: a `SparseWeight` that is planned.
      counters: the saved counters.
      sets: the saved set codes.
    """
    path, method = weight.path, weight.method
    kept_units = counters[[Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD]].tolist()
    # A budget that follows the momentum moves units from weight to weight.
    planned = [weight.kept_forward, weight.kept_backward]
    saved_state.check_counts(
        path,
        weight.units,
        (weight.fwd, weight.bwd),
        kept_units,
        kept_units if method.budget == "global" else planned,
    )
    saved_state.check_codes(path, sets)
    found = saved_state.set_sizes(codes_of_units(weight, sets))
    expected = method.counts(weight.units, *kept_units, int(counters[Counter.STEP]))
    if weight.budget is not None and method.budget == "layer":
        expected = None
    if weight.exempt:
        expected = (weight.units, weight.units)
    if counters[Counter.FROZEN] and method.varying_counts:
        expected = None  # the count is that of a step that the counters do not know
    if counters[Counter.FROZEN] and expected is not None:
        # Since a step that the counters do not know; B may have been larger then.
        backward = kept_units[1]
        expected = expected[0], backward if found[1] == backward else expected[1]
    saved_state.check_sizes(path, found, expected)


def check_budget(peers: Sequence[Any]) -> None:
    """Raises a ValueError unless the sets of a common budget add up to it.

    Args:
      peers: all `SparseWeight`s of the budget, restored.
    """
    method = peers[0].method
    if method.budget == "global":
        return  # each has a count of its own
    with tf.init_scope():
        counters = [peer.replica().counters.numpy() for peer in peers]
        codes = [codes_of_units(peer, peer.replica().sets.numpy()) for peer in peers]
    expected = method.counts(
        sum(peer.units for peer in peers),
        *map(int, sum(counters)[[Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD]]),
        int(counters[0][Counter.STEP]),
    )
    forward, backward = map(sum, zip(*map(saved_state.set_sizes, codes), strict=True))
    saved_state.check_total_sizes(
        [peer.path for peer in peers], (forward, backward), expected
    )


def codes_of_units(weight: Any, sets: np.ndarray) -> np.ndarray:
    """One set code for each unit (entry or block) of a weight.

    Args:
      weight: a `SparseWeight`.
      sets: a code for each of its entries.
    """
    unit_of = saved_state.unit_of_entries(weight.blocks, weight.units)
    return saved_state.codes_of_units(weight.path, sets, unit_of)
