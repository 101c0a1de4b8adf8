"""The description of a flag, and what several programs do with flags."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from launch.support.errors import UserError

# TensorFlow counts steps, and quantities derived from them, below this number.
_TOO_LARGE = 2**31


class Range(NamedTuple):
    """The numbers that a flag may have.

    Attributes:
      words: the text after "Expected --flag to be".
      holds: whether a number is in the range.
    """

    words: str
    holds: Callable[[float], bool]


_INFINITY = float("inf")
SHARE = Range("in [0, 1)", lambda number: 0 <= number < 1)
FACTOR = Range("in (0, 1)", lambda number: 0 < number < 1)
ABOVE_0 = Range("above 0", lambda number: 0 < number < _INFINITY)
NOT_NEGATIVE = Range("at least 0", lambda number: 0 <= number < _INFINITY)
POWER = Range("at least 1", lambda number: 1 <= number < _INFINITY)
# At 100 times the width, a ResNet-20 has 10,000 times the parameters.
WIDTH = Range("above 0 and at most 100", lambda number: 0 < number <= 100)


class Flag(NamedTuple):
    """One flag, with the values that it may have and where it applies.

    Attributes:
      kind: the suffix of the absl `DEFINE_` function.
      bounds: further arguments of that function.
      choices: the allowed values of a string or of each item of a list; empty: any.
      range: the allowed numbers of a float; None: any.
      data: the kind of data that it applies to, `image` or `text`; empty: both.
      only_with: (flag, value) without which it has no effect; None: it always has.
      affects_result: whether another value changes the results of the run; if not, the
        flag is about the place of files, or about how much is printed or kept.
    """

    kind: str
    name: str
    default: Any
    help: str
    bounds: dict[str, Any] = {}
    choices: tuple[str, ...] = ()
    range: Range | None = None
    data: str = ""
    only_with: tuple[str, str] | None = None
    affects_result: bool = True


Group = tuple[str, tuple[Flag, ...]]
"""A title in the help, and its flags."""
Groups = tuple[Group, ...]

AT_LEAST_0 = {"lower_bound": 0}
AT_LEAST_1 = {"lower_bound": 1}


def flags_in(groups: Groups) -> list[Flag]:
    """The flags of all groups, in their order."""
    return [flag for _, group in groups for flag in group]


def new_flags(groups: Groups) -> flags.FlagValues:
    """The flags of a program with their defaults, before parsing."""
    values = flags.FlagValues()
    for flag in flags_in(groups):
        define = getattr(flags, f"DEFINE_{flag.kind}")
        define(flag.name, flag.default, flag.help, flag_values=values, **flag.bounds)
    return values


def nearest(given: str, names: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if any.

    >>> nearest("rigel", ["rigl", "set"]), nearest("x", ["rigl"])
    ('; did you mean rigl?', '')
    """
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def whole_numbers(values: flags.FlagValues, name: str) -> tuple[int, ...]:
    """A list flag as integers; empty if it is not set.

    Raises:
      UserError: for an item that is not an integer or is too large.
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
