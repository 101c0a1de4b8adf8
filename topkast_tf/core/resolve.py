"""What a user may give as a distribution, and the sparsities that it means."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from topkast_tf.core.distributions import NAMED, Shapes, check_reachable, sizes_of
from topkast_tf.core.sparsities import (
    checked_sparsity,
    is_sparsity,
    validate_sparsities,
)

Asked = float | tuple[float, float]
Distribution = str | Mapping[Any, Asked] | Callable[[dict[str, tuple[int, ...]]], Any]

_PATHS_SHOWN = 5


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
    elif not isinstance(distribution, str) or distribution not in NAMED:
        own = dict(of_methods or {})
        names = [repr(name) for name in NAMED]
        names += [f"{name!r} (only {method})" for name, method in own.items()]
        known = ", ".join(names)
        asked = str(distribution).lower()
        candidates = [name for name in (*NAMED, *own) if name != distribution]
        near = difflib.get_close_matches(asked, candidates, 1, 0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Expected a distribution out of {known}, a mapping from regular "
            "expressions to sparsities, or a function of {path: shape}."
            f"{hint} Received: distribution={distribution!r}"
        )


def resolve(
    distribution: Distribution,
    shapes: Shapes,
    fwd: float,
    bwd: float,
    one_mask: bool = False,
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
      one_mask: whether the two sets are one: a single number s then means (s, s), and
        a pair of two numbers is refused.

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
        forward = NAMED[distribution](shapes, fwd)
        backward = NAMED[distribution](shapes, bwd)
        return {path: (s, min(backward[path], s)) for path, s in forward.items()}
    sizes = sizes_of(shapes)
    search = _search if isinstance(distribution, Mapping) else _call
    asked = search(distribution, shapes)
    if one_mask:
        pairs = {path: _same(path, asked.get(path, fwd)) for path in sizes}
    else:
        pairs = {path: _pair(path, asked.get(path, (fwd, bwd)), bwd) for path in sizes}
    check_reachable(sizes, {path: forward for path, (forward, _) in pairs.items()})
    return pairs


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


def _same(name: Any, value: Any) -> tuple[float, float]:
    """The pair of a weight whose backward set is its forward set."""
    fwd, bwd = _pair(name, value, bwd=1.0)
    if fwd != bwd:
        raise ValueError(
            f"Expected one sparsity for {name!r}, as the method has one mask. "
            f"Received: {value!r}"
        )
    return fwd, bwd


def _pair(name: Any, value: Any, bwd: float) -> tuple[float, float]:
    if is_sparsity(value):
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
    return checked_sparsity(value[0]), checked_sparsity(value[1])
