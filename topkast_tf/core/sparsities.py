"""Sparsities: how many entries a sparsity keeps, and which values are valid."""

import math
from fractions import Fraction
from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """Whether an argument is an int or a float; a bool is none.

    >>> is_number(1), is_number(0.5), is_number(True), is_number("1")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


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
    if not is_size(n):
        raise ValueError(
            f"Expected a positive integer number of entries. Received: n={n!r}"
        )
    decimal = Fraction(str(checked_sparsity(sparsity)))
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
    if not (is_sparsity(fwd) and is_sparsity(bwd) and bwd <= fwd):
        raise ValueError(
            "Expected 0 <= bwd <= fwd < 1: sparsities are fractions of zeros, and "
            "the backward set contains the forward set. "
            f"Received: fwd={fwd!r}, bwd={bwd!r}"
        )


def is_size(n: Any) -> bool:
    """Whether it is an integer of at least 1."""
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1


def is_sparsity(s: Any) -> bool:
    """Whether it is a real number in [0, 1)."""
    # A comparison with NaN is false.
    return isinstance(s, Real) and not isinstance(s, bool) and 0 <= float(s) < 1


def checked_sparsity(s: Any) -> float:
    """The checked sparsity as the Python float that prints as `s` does."""
    if not is_sparsity(s):
        raise ValueError(
            "Expected a sparsity (a fraction of zeros) in [0, 1). "
            f"Received: sparsity={s!r}"
        )
    return float(str(s))
