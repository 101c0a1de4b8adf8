"""The flags of `launch/train.py`: parsing, checks, and the flags as a flagfile.

absl parses them into a separate `FlagValues`, so that flags of other libraries neither
appear in the help nor hide a misspelt name.
"""

import difflib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.config import exclusive, methods
from launch.config.flag import (
    Flag,
    Groups,
    check_size,
    flags_in,
    nearest,
    new_flags,
    whole_numbers,
)
from launch.config.flag_table import GROUPS
from launch.config.methods.base import distribution_of
from launch.support.errors import UserError


def parse(argv: Sequence[str], groups: Groups = GROUPS) -> flags.FlagValues:
    """Parses a command line, flagfiles included, and checks the values.

    Checks that need the data set or the model are in `launch.config.resolve`.

    Args:
      argv: the program's name, then its arguments.
      groups: the known flags.

    Returns:
      The flags, each an attribute.

    Raises:
      UserError: for an unknown flag (with the nearest name, and the flagfile and line
        that it is on), a wrong value, or an argument that is not a flag.
    """
    values, rest = known(argv, groups)
    if rest:
        raise UserError(
            f"Expected flags only, written --name=value. Received: {rest[0]!r}."
        )
    _check_together(values)
    return values


def overruled(argv: Sequence[str], groups: Groups = GROUPS) -> list[str]:
    """A sentence for each flag of a command line that a later one overrules.

    Args:
      argv: a command line that `parse` has accepted.
      groups: the known flags.
    """
    values = new_flags(groups)
    values(list(argv))
    return exclusive.settle(values, exclusive.expanded(argv))


def known(argv: Sequence[str], groups: Groups) -> tuple[flags.FlagValues, list[str]]:
    """Parses a command line and checks each value by itself.

    Args:
      argv: the program's name, then its arguments.
      groups: the known flags.

    Returns:
      The flags, and the arguments that are not flags.

    Raises:
      UserError: for an unknown flag, or a value of the wrong type or out of range.
    """
    values = new_flags(groups)
    try:
        rest = values(list(argv))[1:]
        exclusive.settle(values, exclusive.expanded(argv))
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, argv[1:], groups)) from None
    except (flags.Error, ValueError) as error:
        said = " ".join(str(error).split()).removeprefix("ERROR:: ")
        raise UserError(said) from None
    for flag in flags_in(groups):
        _check_value(flag, values[flag.name].value)
    return values, rest


def to_text(values: flags.FlagValues, groups: Groups = GROUPS) -> str:
    """The flags as a flagfile, one per line, in the order of the help."""
    lines = []
    ignored = exclusive.ignored_flags(values)
    for title, group in groups:
        lines.append(f"# {title}")
        for flag in group:
            if flag.name in ignored:
                lines.append(f"# --{flag.name} does not count")
                continue
            line = values[flag.name].serialize()
            lines.append(line or f"# --{flag.name} is not set")
    return "\n".join(lines) + "\n"


def differences(
    ours: flags.FlagValues, theirs: flags.FlagValues, groups: Groups = GROUPS
) -> list[tuple[str, Any, Any]]:
    """(name, ours, theirs) of each flag in which two runs differ.

    Flags that do not affect the result are ignored.
    """
    return [
        (flag.name, ours[flag.name].value, theirs[flag.name].value)
        for flag in flags_in(groups)
        if flag.affects_result and ours[flag.name].value != theirs[flag.name].value
    ]


def drop_steps(values: flags.FlagValues) -> tuple[int, ...]:
    """`--lr_drop_steps` as integers."""
    return whole_numbers(values, "lr_drop_steps")


def _check_value(flag: Flag, value: Any) -> None:
    """Raises `UserError` for a value that the flag does not allow."""
    if value is None:
        return
    if flag.kind == "integer":
        check_size(flag.name, value)
    if flag.range is not None and not flag.range.holds(value):
        raise UserError(
            f"Expected --{flag.name} to be {flag.range.words}. Received: {value}"
        )
    for item in value if flag.kind == "list" else [value]:
        if flag.choices and item not in flag.choices:
            raise UserError(
                f"Expected --{flag.name} to be one of {', '.join(flag.choices)}. "
                f"Received: {item!r}" + nearest(item, flag.choices)
            )


def _check_together(values: flags.FlagValues) -> None:
    """Raises `UserError` for flags that contradict each other, and malformed lists."""
    steps = drop_steps(values)
    if list(steps) != sorted(set(steps)) or any(step < 1 for step in steps):
        raise UserError(
            "Expected --lr_drop_steps to rise from at least 1. "
            f"Received: {','.join(values.lr_drop_steps)}"
        )
    if values.jit and values.deterministic:
        raise UserError(
            "Expected --nodeterministic with --jit, because Keras does not compile a "
            "model while TensorFlow's ops are deterministic. Received: --jit"
        )
    if "compare_dense" in values and values.compare_dense and values.method == "dense":
        raise UserError(
            "Expected --compare_dense with a sparse --method. Received: --method=dense"
        )
    for name in ("exempt", "include"):
        for pattern in (values[name].value if name in values else None) or ():
            _check_pattern(name, pattern)
    if "distribution" in values:
        _check_distribution(values)
        methods.METHODS[values.method].check(values)
        _check_block(values)


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"Expected --{name} to be regular expressions ({error}). "
            f"Received: {pattern!r}"
        ) from None


def _check_distribution(values: flags.FlagValues) -> None:
    distribution = distribution_of(values)
    if isinstance(distribution, dict):
        for pattern, asked in distribution.items():
            _check_pattern("distribution", pattern)
            _check_pair(f"--distribution of {pattern!r}", asked)
        return
    if distribution not in methods.DISTRIBUTIONS:
        raise UserError(
            f"Expected --distribution to be one of {', '.join(methods.DISTRIBUTIONS)}, "
            f"or a JSON mapping. Received: {distribution!r}"
            + nearest(distribution.lower(), methods.DISTRIBUTIONS)
        )
    having = methods.methods_with(distribution)
    if methods.METHODS[values.method].distributions and values.method not in having:
        raise UserError(
            f"Expected --distribution={distribution} with one of the methods "
            f"{', '.join(having)}. Received: --method={values.method}"
        )


def _check_block(values: flags.FlagValues) -> None:
    block = whole_numbers(values, "block") or (1, 1)
    if len(block) != 2 or min(block) < 1:
        raise UserError(
            "Expected --block to be rows,cols, both at least 1. "
            f"Received: {','.join(values.block)}"
        )


def _check_pair(name: str, asked: Any) -> None:
    pair = asked if isinstance(asked, tuple) else (asked,)
    numbers = all(type(number) in (int, float) for number in pair)
    falling = numbers and list(pair) == sorted(pair, reverse=True)
    if not (falling and 1 <= len(pair) <= 2 and 0 <= pair[-1] <= pair[0] < 1):
        raise UserError(
            f"Expected {name} to be a sparsity in [0, 1) or a pair [forward, backward], "
            f"the backward one at most the forward one. Received: {asked!r}"
        )


def _unknown(name: str, arguments: Sequence[str], groups: Groups) -> str:
    names = [flag.name for flag in flags_in(groups)] + ["flagfile"]
    stem = name[2:] if name.startswith("no") and name[2:] in names else name
    near = difflib.get_close_matches(stem, names, n=1, cutoff=0.5)
    meant = f"; did you mean --{near[0]}?" if near else "; --help lists them."
    return f"unknown flag --{name}{_place(name, arguments)}{meant}"


def _place(name: str, arguments: Sequence[str]) -> str:
    """ " (FILE, line N)" if a flagfile of the command line holds the flag."""
    pattern = re.compile(rf"\s*--?{re.escape(name)}(=|\s|$)")
    files = flagfiles(arguments)
    seen = set()
    while files:
        path = files.pop(0)
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if pattern.match(line):
                return f" ({path}, line {number})"
            nested = re.match(r"\s*--?flagfile[= ](.*)", line)
            if nested:
                files.append(_path(nested[1]))
    return ""


def flagfiles(arguments: Sequence[str]) -> list[pathlib.Path]:
    """The flagfiles that a command line names, without nested ones."""
    joined = [a.partition("=")[2] for a in arguments if re.match("--?flagfile=", a)]
    separate = [
        arguments[i + 1]
        for i, a in enumerate(arguments[:-1])
        if a in ("--flagfile", "-flagfile")
    ]
    return [_path(name) for name in joined + separate]


def _path(name: str) -> pathlib.Path:
    return pathlib.Path(name.strip()).expanduser()
