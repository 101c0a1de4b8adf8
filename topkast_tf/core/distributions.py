"""How sparsity is shared between weights: shapes in, sparsities and counts out.

Pure Python on shapes, so that a budget can be planned before a model exists. Every
weight keeps at least one entry, so L weights with N entries reach an overall sparsity
of at most 1 - L/N; a target beyond that is out of reach and raises.
"""

from __future__ import annotations

import bisect
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

Shape = Sequence[int]
Shapes = Mapping[str, Shape]
Asked = float | tuple[float, float]
Distribution = str | Mapping[Any, Asked] | Callable[[dict[str, tuple[int, ...]]], Any]

_PATHS_SHOWN = 5
_ROUNDING = 1e-12


def kept(n: int, sparsity: float) -> int:
    """Number of entries out of `n` that stay non-zero at a given sparsity.

    kept(n, s) = max(1, n - floor(s * n))

    `sparsity` is read as the decimal it prints as, not as its binary value:
    `0.57` is 57/100, so 43 of 100 entries stay. In binary floating point
    `0.57 * 100` is 56.99..., and 44 would.

    Args:
      n: number of entries, at least 1.
      sparsity: fraction of zeros, in [0, 1).

    Returns:
      An integer in [1, n].

    Raises:
      ValueError: if `n` is not a positive integer or `sparsity` not in [0, 1).

    >>> kept(100, 0.57), kept(10, 0.99), kept(7, 0.5)
    (43, 1, 4)

    Source: n_zeros = floor(s * n) as in RigL (Evci et al. 2020, released code).
    Departs from it in the decimal reading and in keeping at least one entry.
    """
    if not _is_size(n):
        raise ValueError(
            f"Expected a positive integer number of entries. Received: n={n!r}"
        )
    decimal = Fraction(str(_sparsity(sparsity)))
    return max(1, int(n) - math.floor(decimal * int(n)))


def sparsity_that_keeps(n: int, count: int) -> float:
    """The shortest decimal sparsity at which a number of entries stays: `kept` inverted.

    Args:
      n: number of entries, at least 1.
      count: how many of them stay, in [1, n].

    >>> sparsity_that_keeps(100, 43), sparsity_that_keeps(3, 1), sparsity_that_keeps(7, 7)
    (0.57, 0.7, 0.0)
    """
    digits = 0
    while True:
        zeros = Fraction(-(-(n - count) * 10**digits // n), 10**digits)
        if math.floor(zeros * n) == n - count and zeros < 1:
            return float(zeros)
        digits += 1


def validate_sparsities(fwd: float, bwd: float) -> None:
    """Checks that a pair of sparsities can be a forward and a backward set.

    0 <= bwd <= fwd < 1, because the backward set contains the forward set.

    Args:
      fwd: forward sparsity, a fraction of zeros.
      bwd: backward sparsity, a fraction of zeros.

    Raises:
      ValueError: if the relation above does not hold.

    >>> validate_sparsities(0.9, 0.8)
    >>> validate_sparsities(0.8, 0.9)
    Traceback (most recent call last):
    ...
    ValueError: Expected 0 <= bwd <= fwd < 1: sparsities are fractions of \
zeros, and the backward set contains the forward set. Received: fwd=0.8, bwd=0.9

    Source: A is a subset of B in Top-KAST (Jayakumar et al. 2020, section 2).
    """
    if not (_is_sparsity(fwd) and _is_sparsity(bwd) and bwd <= fwd):
        raise ValueError(
            "Expected 0 <= bwd <= fwd < 1: sparsities are fractions of zeros, and "
            "the backward set contains the forward set. "
            f"Received: fwd={fwd!r}, bwd={bwd!r}"
        )


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
    sizes = _sizes(shapes)
    result = dict.fromkeys(sizes, _sparsity(sparsity))
    _check_reachable(sizes, result)
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


_NAMED: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
    # The weights themselves decide later; until then every one has the nominal
    # value, and a target that cannot be reached is refused all the same.
    "global": uniform,
}


def validate_distribution(
    distribution: Distribution, of_methods: Mapping[str, str] | None = None
) -> None:
    """Checks of a distribution all that can be checked before there are shapes.

    Args:
      distribution: as in `resolve`.
      of_methods: {name: method} of distributions that a method has of its own and takes
        before this, to be named in the message.

    Raises:
      ValueError: for an unknown name, a key that is no regular expression, or a value
        that is neither a sparsity nor a valid pair.

    >>> validate_distribution({"head": 0.5, "conv": (0.9, 0.8)})
    >>> validate_distribution("ERK")
    Traceback (most recent call last):
    ...
    ValueError: Expected a distribution out of 'uniform', 'er', 'erk', 'global', a \
mapping from regular expressions to sparsities, or a function of {path: shape}. Did \
you mean 'erk'? Received: distribution='ERK'
    """
    if isinstance(distribution, Mapping):
        for regex, value in distribution.items():
            try:
                re.compile(regex)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"Expected a valid regular expression ({error}). "
                    f"Received: distribution key {regex!r}"
                ) from error
            _pair(regex, value, bwd=0.0)
    elif callable(distribution):
        return
    elif not isinstance(distribution, str) or distribution not in _NAMED:
        own = dict(of_methods or {})
        names = [repr(name) for name in _NAMED]
        names += [f"{name!r} (only {method})" for name, method in own.items()]
        known = ", ".join(names)
        asked = str(distribution).lower()
        candidates = [name for name in (*_NAMED, *own) if name != distribution]
        near = difflib.get_close_matches(asked, candidates, 1, 0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected a distribution out of {known}, a mapping from regular "
            "expressions to sparsities, or a function of {path: shape}."
            f"{hint} Received: distribution={distribution!r}"
        )


def resolve(
    distribution: Distribution, shapes: Shapes, fwd: float, bwd: float
) -> dict[str, tuple[float, float]]:
    """Forward and backward sparsity of every weight under a distribution.

    For a name, (s_l(fwd), min(s_l(bwd), s_l(fwd))). A single number s for a path
    means (s, min(bwd, s)); a path that is not named gets (fwd, bwd).

    Args:
      distribution: `"uniform"`, `"er"`, `"erk"`, `"global"` (each weight gets the
        nominal pair here); or a mapping from regular expressions to a sparsity or
        a (fwd, bwd) pair, searched in the path, the first match in the mapping's
        order winning; or a function of {path: shape} that returns {path: sparsity
        or pair}.
      shapes: {path: shape} of the weights to sparsify.
      fwd: forward sparsity, in [0, 1).
      bwd: backward sparsity, in [0, fwd].

    Returns:
      {path: (forward sparsity, backward sparsity)} in the order of `shapes`.

    Raises:
      ValueError: for an unknown name, a regular expression that matches no path, a
        path that does not exist, an invalid pair, or a target out of reach.

    >>> shapes = {"conv/kernel": (3, 3, 4, 8), "head/kernel": (8, 2)}
    >>> resolve({"head": 0.5}, shapes, fwd=0.9, bwd=0.8)
    {'conv/kernel': (0.9, 0.8), 'head/kernel': (0.5, 0.5)}

    Source: the names as in Top-KAST (uniform), SET (er) and RigL (erk).
    """
    validate_sparsities(fwd, bwd)
    validate_distribution(distribution)
    if isinstance(distribution, str):
        forward = _NAMED[distribution](shapes, fwd)
        backward = _NAMED[distribution](shapes, bwd)
        return {path: (s, min(backward[path], s)) for path, s in forward.items()}
    sizes = _sizes(shapes)
    search = _search if isinstance(distribution, Mapping) else _call
    asked = search(distribution, shapes)
    pairs = {path: _pair(path, asked.get(path, (fwd, bwd)), bwd) for path in sizes}
    _check_reachable(sizes, {path: forward for path, (forward, _) in pairs.items()})
    return pairs


def _is_size(n: Any) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1


def _is_sparsity(s: Any) -> bool:
    # A comparison with NaN is false.
    return isinstance(s, Real) and not isinstance(s, bool) and 0 <= float(s) < 1


def _sparsity(s: Any) -> float:
    """The checked sparsity as the Python float that prints as `s` does."""
    if not _is_sparsity(s):
        raise ValueError(
            "Expected a sparsity (a fraction of zeros) in [0, 1). "
            f"Received: sparsity={s!r}"
        )
    return float(str(s))


def _sizes(shapes: Shapes) -> dict[str, int]:
    for path, shape in shapes.items():
        if not all(_is_size(dim) for dim in shape):
            raise ValueError(
                f"Expected a shape of positive integers for {path!r}. "
                f"Received: shape={tuple(shape)}"
            )
    return {path: math.prod(map(int, shape)) for path, shape in shapes.items()}


def _check_reachable(sizes: Mapping[str, int], sparsities: Mapping[str, float]) -> None:
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
    sizes, target = _sizes(shapes), _sparsity(sparsity)
    _check_reachable(sizes, dict.fromkeys(sizes, target))
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


def _some(paths: Iterable[str]) -> str:
    shown = [repr(path) for path in paths]
    if len(shown) > _PATHS_SHOWN:
        shown[_PATHS_SHOWN:] = ["..."]
    return ", ".join(shown) or "none"


def _search(rules: Any, shapes: Shapes) -> dict[str, Asked]:
    asked: dict[str, Asked] = {}
    for regex, value in rules.items():
        hits = [path for path in shapes if re.search(regex, path)]
        if not hits:
            raise ValueError(
                "Expected every regular expression of a distribution to match one of "
                f"the paths ({_some(shapes)}). Received: {regex!r}"
            )
        for path in hits:
            asked.setdefault(path, value)
    return asked


def _call(function: Any, shapes: Shapes) -> dict[str, Asked]:
    asked = function({path: tuple(map(int, shape)) for path, shape in shapes.items()})
    if not isinstance(asked, Mapping):
        raise ValueError(
            "Expected a distribution function to return {path: sparsity or (fwd, "
            f"bwd)}}. Received: {asked!r}"
        )
    unknown = [path for path in asked if path not in shapes]
    if unknown:
        raise ValueError(
            "Expected a distribution function to return none but the paths "
            f"({_some(shapes)}). Received: {_some(unknown)}"
        )
    return dict(asked)


def _pair(name: Any, value: Any, bwd: float) -> tuple[float, float]:
    if _is_sparsity(value):
        value = (value, min(bwd, value))
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise ValueError(
            f"Expected a sparsity in [0, 1) or a (fwd, bwd) pair for {name!r}. "
            f"Received: {value!r}"
        )
    try:
        validate_sparsities(*value)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    return _sparsity(value[0]), _sparsity(value[1])
