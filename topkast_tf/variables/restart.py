"""Training that begins anew, from weights that came from elsewhere."""

from collections.abc import Iterable, Iterator

from topkast_tf.variables.weight import SparseWeight


def restart(weights: Iterable[SparseWeight]) -> None:
    """Begins anew from thetas as they are: step 0, sets as the method selects first.

    Frozen sets stay: so a found mask is trained from other weights.
    """
    weights = list(weights)
    for weight in weights:
        weight.restart()
    for weight in one_of_each_budget(w for w in weights if not w.is_frozen):
        weight.initialize_budget()


def one_of_each_budget(weights: Iterable[SparseWeight]) -> Iterator[SparseWeight]:
    """Of weights that share a budget the first one."""
    met: set[int] = set()
    for weight in weights:
        if id(weight) not in met:
            met.update(id(peer) for peer in weight.peers())
            yield weight
