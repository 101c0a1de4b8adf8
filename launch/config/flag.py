"""What a flag is, and what several programs do with flags."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from launch.support.errors import UserError

# TensorFlow counts steps, and what is made of them, in numbers below this.
_TOO_LARGE = 2**31


class Range(NamedTuple):
    """The numbers that a flag may have.

    Attributes:
      words: after "Expected --flag to be".
      holds: whether a number is one of them.
    """

    words: str
    holds: Callable[[float], bool]


_INFINITY = float("inf")
SHARE = Range("in [0, 1)", lambda number: 0 <= number < 1)
FACTOR = Range("in (0, 1)", lambda number: 0 < number < 1)
ABOVE_0 = Range("above 0", lambda number: 0 < number < _INFINITY)
NOT_NEGATIVE = Range("at least 0", lambda number: 0 <= number < _INFINITY)
# A hundred times as wide, a ResNet-20 has ten thousand times its parameters.
WIDTH = Range("above 0 and at most 100", lambda number: 0 < number <= 100)


class Flag(NamedTuple):
    """One flag: the suffix of an absl `DEFINE_` function and its arguments.

    Attributes:
      bounds: what else absl is told.
      choices: the words that it, or each item of a list, may be; empty: any.
      range: the numbers that a float may be; None: any.
    """

    kind: str
    name: str
    default: Any
    help: str
    bounds: dict[str, Any] = {}
    choices: tuple[str, ...] = ()
    range: Range | None = None


Groups = tuple[tuple[str, tuple[Flag, ...]], ...]
"""Titles of the help, each with its flags."""

AT_LEAST_0 = {"lower_bound": 0}
AT_LEAST_1 = {"lower_bound": 1}


def new_flags(groups: Groups) -> flags.FlagValues:
    """The flags of a launcher with their defaults, nothing parsed yet."""
    values = flags.FlagValues()
    for _, group in groups:
        for flag in group:
            define = getattr(flags, f"DEFINE_{flag.kind}")
            define(
                flag.name, flag.default, flag.help, flag_values=values, **flag.bounds
            )
    return values


def nearest(given: str, names: Sequence[str]) -> str:
    """What to add to a message about an unknown name: the one that was meant, if any.

    >>> nearest("rigel", ["rigl", "set"]), nearest("x", ["rigl"])
    ('; did you mean rigl?', '')
    """
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def whole_numbers(values: flags.FlagValues, name: str) -> tuple[int, ...]:
    """A list flag as whole numbers; none if it is not set.

    Raises:
      UserError: for an item that is no such number, or too large.
    """
    given = values[name].value or ()
    try:
        numbers = tuple(int(item) for item in given)
    except ValueError:
        raise UserError(
            f"Expected --{name} to be whole numbers with commas between them. "
            f"Received: {','.join(given)}"
        ) from None
    for number in numbers:
        check_size(name, number)
    return numbers


def check_size(name: str, number: int) -> None:
    """Raises `UserError` for a number that TensorFlow cannot count to."""
    if number >= _TOO_LARGE:
        raise UserError(f"Expected --{name} to be below 2**31. Received: {number}")
