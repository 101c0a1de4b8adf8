"""The user's choice of the parameters that a scope sparsifies."""

import dataclasses
import re
import zlib
from typing import Any

from topkast_tf.core.resolve import validate_distribution
from topkast_tf.methods import METHODS

ENDS = ("first", "last")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Which weights are sparsified, and how sparsity is distributed over them."""

    distribution: Any = "uniform"
    exempt: tuple[str, ...] = ()
    include: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        of_methods = {
            name: method.name
            for method in METHODS.values()
            for name in method.own_distributions
        }
        validate_distribution(self.distribution, of_methods)
        object.__setattr__(self, "exempt", _patterns("exempt", self.exempt))
        if self.include is not None:
            object.__setattr__(self, "include", _patterns("include", self.include))
        if not isinstance(self.seed, int):
            raise ValueError(f"`seed` must be an integer. Received: seed={self.seed!r}")


def seed_of(path: str, seed: int) -> int:
    """A weight's own random seed: a digest of its path and of the user's seed.

    >>> seed_of("dense/kernel", 0) == seed_of("dense/kernel", 1)
    False
    """
    # Not `hash()`, which differs between processes.
    return zlib.crc32(path.encode()) ^ (seed & 0xFFFFFFFF)


def _patterns(argument: str, patterns: Any) -> tuple[str, ...]:
    if not isinstance(patterns, str | list | tuple | set | frozenset):
        raise ValueError(
            f"`{argument}` must be one or several regular expressions. "
            f"Received: {argument}={patterns!r}"
        )
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"`{argument}` must hold regular expressions ({error}). "
                f"Received: {pattern!r}"
            ) from error
    return patterns
