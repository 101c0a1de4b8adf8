"""Restarts training from externally loaded weights."""

from collections.abc import Iterable, Iterator

from topkast_tf.variables.weight import SparseWeight


def restart(weights: Iterable[SparseWeight]) -> None:
    """Restarts from the current theta: step 0 and the method's initial sets.

    Frozen sets are kept, so that a found mask is trained from other weights.
    """
    weights = list(weights)
    for weight in weights:
        weight.restart()
    for weight in one_of_each_budget(w for w in weights if not w.is_frozen):
        weight.initialize_budget()


def one_of_each_budget(weights: Iterable[SparseWeight]) -> Iterator[SparseWeight]:
    """The first weight of each budget."""
    met: set[int] = set()
    for weight in weights:
        if id(weight) not in met:
            met.update(id(peer) for peer in weight.peers())
            yield weight
