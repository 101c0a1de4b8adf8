"""How sparsity is shared between weights: shapes in, sparsities out.

Pure Python on shapes, so that a budget can be planned before a model exists. Every
weight keeps at least one entry, so L weights with N entries reach an overall sparsity
of at most 1 - L/N; a target beyond that is out of reach and raises.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence

from topkast_tf.core.sparsities import checked_sparsity, is_size

Shape = Sequence[int]
Shapes = Mapping[str, Shape]

_ROUNDING = 1e-12


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """The same sparsity for every weight.

    s_l = s

    Args:
      shapes: {path: shape} of the weights to sparsify.
      sparsity: fraction of zeros over all of them, in [0, 1).

    Returns:
      {path: sparsity}.

    Raises:
      ValueError: for an invalid shape or sparsity, or a target out of reach.

    >>> uniform({"a": (4, 8), "b": (8, 2)}, 0.5)
    {'a': 0.5, 'b': 0.5}

    Source: the layer-wise distribution of Top-KAST (Jayakumar et al. 2020).
    """
    sizes = sizes_of(shapes)
    result = dict.fromkeys(sizes, checked_sparsity(sparsity))
    check_reachable(sizes, result)
    return result


def erdos_renyi(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdős–Rényi: thin weights stay denser than square ones.

    1 - s_l = clip(e * (in + out) / (in * out), 1 / n_l, 1), with e such that
    sum_l (1 - s_l) * n_l = (1 - s) * sum_l n_l

    Args:
      shapes: {path: shape}; the last two dimensions are in and out (a vector
        counts as in = 1), the ones before them are spatial.
      sparsity: fraction of zeros over all the weights together, in [0, 1).

    Returns:
      {path: sparsity}, each in [0, 1).

    Raises:
      ValueError: for an invalid shape or sparsity, or a target out of reach.

    >>> erdos_renyi({"square": (8, 8), "thin": (2, 8)}, 0.35)
    {'square': 0.4375, 'thin': 0.0}

    Source: Mocanu et al. 2018 (SET); weights that would be more than dense become
    dense and the rest is solved again as in RigL (Evci et al. 2020). Departs from
    RigL in the lower bound of one entry per weight.
    """

    def relative_density(shape: tuple[int, ...]) -> float:
        fan_in, fan_out = (1, 1, *shape)[-2:]
        return (fan_in + fan_out) / (fan_in * fan_out)

    return _proportional(shapes, sparsity, relative_density)


def erdos_renyi_kernel(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Erdős–Rényi-Kernel: `erdos_renyi` that also counts the spatial dimensions.

    1 - s_l = clip(e * sum(shape_l) / prod(shape_l), 1 / n_l, 1), with e such that
    sum_l (1 - s_l) * n_l = (1 - s) * sum_l n_l

    Args:
      shapes: {path: shape}, of any rank.
      sparsity: fraction of zeros over all the weights together, in [0, 1).

    Returns:
      {path: sparsity}, each in [0, 1).

    Raises:
      ValueError: for an invalid shape or sparsity, or a target out of reach.

    >>> erdos_renyi_kernel({"conv": (3, 3, 4, 8), "head": (8, 3)}, 0.75)
    {'conv': 0.8125, 'head': 0.0}

    Source: RigL (Evci et al. 2020, section 3). Departs from it in the lower bound
    of one entry per weight.
    """
    return _proportional(shapes, sparsity, lambda shape: sum(shape) / math.prod(shape))


NAMED: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
    # The weights themselves decide later; until then every one has the nominal
    # value, and a target that cannot be reached is refused all the same.
    "global": uniform,
}
"""name -> function of {path: shape} and a sparsity."""


def sizes_of(shapes: Shapes) -> dict[str, int]:
    """{path: number of entries}; raises a ValueError for an invalid shape."""
    for path, shape in shapes.items():
        if not all(is_size(dim) for dim in shape):
            raise ValueError(
                f"Expected a shape of positive integers for {path!r}. "
                f"Received: shape={tuple(shape)}"
            )
    return {path: math.prod(map(int, shape)) for path, shape in shapes.items()}


def check_reachable(sizes: Mapping[str, int], sparsities: Mapping[str, float]) -> None:
    """Raises if keeping one entry per weight already exceeds the budget."""
    total, least = sum(sizes.values()), len(sizes)
    zeros = sum(sparsity * sizes[path] for path, sparsity in sparsities.items())
    # The slack admits 1 - L/N itself as computed in floating point.
    if zeros > (total - least) * (1 + _ROUNDING):
        # Rounded down, so that what the message names can be asked for.
        highest = math.floor((1 - least / total) * 1e6) / 1e6
        raise ValueError(
            f"Expected an overall sparsity of at most {highest}: each of the {least} "
            f"weights with {total} entries together keeps at least one. "
            f"Received: sparsity={zeros / total:.6g}"
        )


def _proportional(
    shapes: Shapes,
    sparsity: float,
    relative_density: Callable[[tuple[int, ...]], float],
) -> dict[str, float]:
    """Densities e * relative_density, clipped to [one entry, all], at the budget."""
    sizes, target = sizes_of(shapes), checked_sparsity(sparsity)
    check_reachable(sizes, dict.fromkeys(sizes, target))
    # Entries that a weight keeps for each unit of the scale e.
    rates = {
        path: relative_density(tuple(map(int, shapes[path]))) * size
        for path, size in sizes.items()
    }
    scale = _scale(rates, sizes, (1 - target) * sum(sizes.values()))
    return {
        path: min(max(0.0, 1 - scale * rates[path] / size), 1 - 1 / size)
        for path, size in sizes.items()
    }


def _scale(
    rates: Mapping[str, float], sizes: Mapping[str, int], budget: float
) -> float:
    """Solves sum_l clip(e * rate_l, 1, size_l) = budget for e.

    The left side grows with e and is straight between two neighbouring values of e
    at which some weight leaves its lower or reaches its upper bound.
    """

    def entries(scale: float) -> float:
        return sum(min(max(scale * rates[p], 1), size) for p, size in sizes.items())

    edges = sorted(
        bound / rates[p] for p, size in sizes.items() if rates[p] for bound in (1, size)
    )
    after = bisect.bisect_left(edges, budget, key=entries)
    if after in (0, len(edges)):
        return edges[min(after, len(edges) - 1)] if edges else 0.0
    start, end = edges[after - 1], edges[after]
    share = (budget - entries(start)) / (entries(end) - entries(start))
    return start + share * (end - start)
